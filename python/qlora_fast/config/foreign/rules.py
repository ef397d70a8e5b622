"""The arguments of LLaMA-Factory and of Hugging Face's trainer that are not settings here: refused or ignored, and why.

A rule is a group of names with one reason. A *harmless* value asks for what this program does anyway, so it never stops a
run. Of the other values, those that would change the result of training are refused; the rest are reported and ignored.
Facts: LLaMA-Factory's src/llamafactory/hparams (2026-08) and transformers' TrainingArguments (4.40 to 5.24).
"""

from __future__ import annotations

from dataclasses import dataclass

_OFF = ("false", "no", "0", "0.0", "none", "")


@dataclass(frozen=True, slots=True)
class Rule:
    """One group of foreign keys."""

    reason: str
    names: tuple[str, ...]
    refused: bool = False
    harmless: tuple[str, ...] = _OFF
    """Values (in lower case) that ask for what is done anyway."""


def _ignored(reason: str, names: str) -> Rule:
    return Rule(reason, tuple(names.split()), harmless=())


def _refused(reason: str, names: str, harmless: tuple[str, ...] = _OFF) -> Rule:
    return Rule(reason, tuple(names.split()), refused=True, harmless=harmless)


_METHOD = [
    _refused("this program does supervised fine-tuning", "stage", ("sft",)),
    _refused("this program trains LoRA adapters", "finetuning_type", ("lora",)),
    _refused("`train` trains; `evaluate` evaluates a finished run", "do_train", ("true",)),
    _refused("answers are not generated during training; for a finished run: `qlora-fast generate RUN FILE -o answers.jsonl --metrics`",
             "do_predict predict_with_generate"),
    _refused("a training method other than LoRA",
             "use_galore use_apollo use_badam use_adam_mini use_muon use_llama_pro use_mca use_megatron_bridge "
             "use_hyper_parallel use_kt train_from_scratch mixture_of_depths shift_attn fp8"),
    _refused("a loss other than cross-entropy is not supported",
             "use_dft_loss use_asft_loss use_eaft_loss label_smoothing_factor moe_aux_loss_coef"),
    _refused("Unsloth replaces the model's code; the fast paths here are exact and built in", "use_unsloth"),
    _refused("the vocabulary stays the model's own",
             "resize_vocab add_tokens add_special_tokens new_special_tokens_config"),
    _refused("the model's own position encoding is kept", "rope_scaling"),
    _refused("adapter_name_or_path is the adapter's own folder, and its weights are trained further",
             "adapter_folder create_new_adapter"),
    _refused("the base is placed on one device per process", "quantization_device_map"),
    _refused("images, video and audio are not supported", "media_dir"),
    _refused("the template decides how tools are written", "tool_format"),
    _refused("thinking of earlier turns is dropped, as the models' own templates do", "preserve_thinking"),
    _refused("the order is always shuffled", "disable_shuffling"),
    _refused("other samplers change which samples form an update", "train_sampling_strategy", ("random",)),
    _refused("no sample is ever left out of an epoch", "dataloader_drop_last"),
    _refused("the adapter is small; run one process per GPU instead: "
             "`torchrun --standalone --nproc-per-node N -m qlora_fast train …`; "
             "a base larger than one of them: shard_base: auto",
             "deepspeed fsdp fsdp_config parallelism_config"),
    _refused("run one process per GPU instead: `torchrun --standalone --nproc-per-node N -m qlora_fast train …`",
             "ray_num_workers", ("1", *_OFF)),
    _refused("the optimizer's settings have keys of their own", "optim_args optim_target_modules"),
    _refused("nothing is uploaded; the adapter is in output_dir", "push_to_hub"),
    _refused("bits are reproduced on a CPU; on a GPU the kernels decide", "full_determinism"),
    _refused("hide the GPUs instead: CUDA_VISIBLE_DEVICES= qlora-fast train …", "use_cpu no_cuda use_mps_device"),
    _refused("log lines come every logging_steps updates", "logging_strategy", ("steps",)),
    _refused("evaluations come with eval_steps or epochs only", "eval_on_start eval_delay"),
    _refused("SwanLab is not supported; report_to names the trackers that are", "use_swanlab"),
    _refused("another program of LLaMA-Factory: benchmarks", "task task_dir n_shot lang download_mode save_dir"),
    _refused("only the revision that model_name_or_path holds is read: name a local folder of the one you want",
             "model_revision", ("main",)),
    _refused("files are safetensors, never pickles", "save_safetensors", ("true",)),
    _refused("the run's own text is kept: it is what the model was trained with", "skip_special_tokens", ("true",)),
]  # fmt: skip

_IGNORED = [
    _ignored("no remote code is ever run", "trust_remote_code"),
    _ignored("preparation uses all cores (threads)", "preprocessing_num_workers"),
    _ignored("preparation streams data of any size", "preprocessing_batch_size streaming buffer_size"),
    _ignored("prepared data is named by its fingerprint, so it is reused and never stale (prepared_dir)",
             "overwrite_cache tokenized_path data_shared_file_system"),
    _ignored("rows are read from mapped files; no workers are needed",
             "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
             "dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names "
             "length_column_name accelerator_config"),
    _ignored("one all-reduce of the adapter's gradient per update; there is no DDP wrapper",
             "ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph "
             "ddp_backend local_rank average_tokens_across_devices"),
    _ignored("the fastest exact attention is chosen automatically", "flash_attn"),
    _ignored("the project's kernels are used, and the head runs only at supervised positions",
             "enable_liger_kernel use_liger_kernel liger_kernel_config use_v1_kernels "
             "use_cache low_cpu_mem_usage"),
    _ignored("torch_compile decides; layers are compiled by inductor, in its default mode", "torch_compile_backend torch_compile_mode"),
    _ignored("gradient_checkpointing decides, and never through the reentrant form",
             "use_reentrant_gc use_unsloth_gc gradient_checkpointing_kwargs activation_checkpointing "
             "activation_checkpointing_kwargs torch_empty_cache_steps"),
    _ignored("norms are computed in fp32, and their weights are frozen", "upcast_layernorm"),
    _ignored("the loss is computed in fp32", "upcast_lmhead_output"),
    _ignored("dtype decides the arithmetic, of evaluation too", "tf32 bf16_full_eval fp16_full_eval half_precision_backend"),
    _ignored("eval_strategy decides", "do_eval"),
    _ignored("each dataset of eval_dataset has its own loss", "eval_on_each_dataset"),
    _ignored("evaluation keeps two sums and no logits",
             "prediction_loss_only eval_accumulation_steps eval_do_concat_batches eval_use_gather_object "
             "batch_eval_metrics include_for_metrics include_inputs_for_metrics"),
    _ignored("there are no pad tokens", "ignore_pad_token_for_loss"),
    _ignored("packing decides", "group_by_length"),
    _ignored("text is always text: only the template makes control tokens", "split_special_tokens"),
    _ignored("the tokenizer is always the fast one", "use_fast_tokenizer"),
    _ignored("tokens per second, all and supervised, are always logged", "include_num_input_tokens_seen include_tokens_per_second "
             "include_effective_tokens_per_second"),
    _ignored("`seed` decides the order too", "data_seed"),
    _ignored("the adapter is always saved as a plain LoRA adapter", "pissa_convert"),
    _ignored("a loss that is not finite stops the run; a row that is too long for the memory is found in the first seconds",
             "logging_nan_inf_filter auto_find_batch_size skip_memory_metrics debug"),
    _ignored("a bar on a terminal, plain lines elsewhere; `qlora-fast -q` for less",
             "disable_tqdm log_level log_level_replica log_on_each_node logging_first_step print_param_status"),
    _ignored("TensorBoard's files are in output_dir/tensorboard", "logging_dir"),
    _ignored("trackio keeps its runs on this machine", "trackio_space_id trackio_bucket_id trackio_static_space_id"),
    _ignored("rank 0 writes each file completely or not at all; SIGTERM saves first",
             "save_on_each_node enable_jit_checkpoint restore_callback_states_from_checkpoint ignore_data_skip"),
    _ignored("the Hugging Face cache is where HF_HOME says", "cache_dir"),
    _ignored("a token does not belong in a file; log in with the hub's own program",
             "hf_hub_token ms_hub_token om_hub_token hub_token"),
    _ignored("nothing is uploaded",
             "hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision push_to_hub_model_id "
             "push_to_hub_organization push_to_hub_token"),
    _ignored("Ray does not start runs here (qlora_fast.ray prepares data over a cluster)",
             "ray_run_name ray_storage_path ray_storage_filesystem resources_per_worker placement_strategy "
             "ray_init_kwargs ray_scope master_addr master_port"),
    _ignored("only preference training reads it",
             "pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing kto_chosen_weight kto_rejected_weight "
             "simpo_gamma ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards ref_model "
             "ref_model_adapters ref_model_quantization_bit reward_model reward_model_adapters "
             "reward_model_quantization_bit reward_model_type ld_alpha"),
    _ignored("only the training method of that name reads it, and it is not enabled",
             "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules module_dropout oft_rank "
             "oft_block_size oft_target galore_target galore_rank galore_update_interval galore_scale "
             "galore_proj_type galore_layerwise apollo_target apollo_rank apollo_update_interval apollo_scale "
             "apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise apollo_scale_front badam_mode "
             "badam_start_block badam_switch_mode badam_switch_interval badam_update_ratio badam_mask_mode "
             "badam_verbose asft_alpha eaft_alpha fp8_backend fp8_enable_fsdp_float8_all_gather init_special_tokens "
             "megatron_bridge_args hyper_parallel_args hyper_parallel_cp_size kt_optimize_rule cpu_infer chunk_size "
             "mode kt_maxlen kt_use_cuda_graph kt_mode kt_force_think kt_cpu_activation kt_weight_path "
             "kt_non_expert_weight_path kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num "
             "kt_lora_expert_intermediate_size kt_config swanlab_project swanlab_workspace swanlab_run_name "
             "swanlab_mode swanlab_api_key swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret"),
    _ignored("only Megatron reads it, which is not used here",
             "tensor_model_parallel_size pipeline_model_parallel_size expert_model_parallel_size "
             "context_parallel_size virtual_pipeline_model_parallel_size sequence_parallel recompute_granularity "
             "recompute_method recompute_num_layers account_for_embedding_in_pipeline_split "
             "account_for_loss_in_pipeline_split bias_activation_fusion apply_rope_fusion masked_softmax_fusion "
             "cross_entropy_loss_fusion moe_grouped_gemm moe_token_dispatcher_type calculate_per_token_loss "
             "use_distributed_optimizer overlap_param_gather overlap_grad_reduce use_packed_sequences "
             "mixed_precision megatron_pretrained_checkpoint export_hf_on_finish extra_config"),
    _ignored("images, video and audio are not supported; it does not affect text",
             "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels "
             "video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate freeze_vision_tower "
             "freeze_multi_modal_projector freeze_language_model"),
    _ignored("only generation reads it; `qlora-fast chat` has options of its own",
             "do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty "
             "length_penalty eval_num_beams generation_max_length generation_num_beams generation_config "
             "sortish_sampler infer_backend offload_folder use_kv_cache infer_dtype vllm_maxlen vllm_gpu_util "
             "vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction sglang_tp_size "
             "sglang_config sglang_lora_backend"),
    _ignored("`qlora-fast merge` writes a complete model",
             "export_dir export_size export_device export_quantization_bit export_quantization_dataset "
             "export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id"),
    _ignored("torch's profiler is not built in",
             "enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps "
             "profiler_active_steps profiler_repeat profiler_record_shapes profiler_profile_memory "
             "profiler_with_stack profile_modules"),
    _ignored("LLaMA-Factory sets it internally", "compute_dtype device_map model_max_length block_diag_attn"),
    _ignored("only LLaMA-Factory's benchmarks read it", "batch_size"),
]  # fmt: skip

RULES: dict[str, Rule] = {name: rule for rule in (*_METHOD, *_IGNORED) for name in rule.names}

NOT_FOR_EYES = ("token", "key", "secret", "webhook_url")
"""Endings of keys whose values are never shown."""
