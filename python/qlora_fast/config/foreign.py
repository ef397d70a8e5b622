"""Keys of a LLaMA-Factory SFT file that mean nothing here, or must have one value: known by name, never guessed."""

from __future__ import annotations

MUST_BE: dict[str, tuple[str, ...]] = {
    "stage": ("sft",),
    "do_train": ("true",),
    "finetuning_type": ("lora",),
    "predict_with_generate": ("false",),
    "upcast_layernorm": ("false",),
}
"""Accepted when they say what this program does anyway; any other value is refused by name."""

RENAMED: dict[str, str] = {
    "quantization_bits": "quantization_bit",
    "cutoff_length": "cutoff_len",
    "lora_r": "lora_rank",
}
"""Spellings of other tools, offered as the mend."""

IGNORED: dict[str, str] = {
    "preprocessing_num_workers": "preparation uses all cores (threads)",
    "preprocessing_batch_size": "preparation streams",
    "dataloader_num_workers": "rows are cut from the mapped data, no workers are needed",
    "overwrite_cache": "prepared data is named by its fingerprint and cannot be stale",
    "tokenized_path": "prepared data is found by its fingerprint (prepared_dir)",
    "ddp_timeout": "one all-reduce an update",
    "flash_attn": "the fastest exact attention is chosen by itself",
    "trust_remote_code": "no remote code is ever run",
    "do_eval": "eval_strategy decides",
    "neat_packing": "packing: exact never mixes samples",
    "disable_gradient_checkpointing": "gradient_checkpointing decides; it is off by default",
    "group_by_length": "packing decides",
    "use_fast_tokenizer": "always",
    "include_num_input_tokens_seen": "always logged",
    "remove_unused_columns": "unknown columns are counted and ignored",
    "plot_loss_smoothing": "always drawn",
    "ddp_find_unused_parameters": "there is no DDP wrapper",
    "enable_liger_kernel": "own loss kernel",
}
"""Read, reported with the reason, and without effect."""

REFUSED: dict[str, str] = {
    "reward_model": "preference training is not supported",
    "pref_loss": "preference training is not supported",
    "pref_beta": "preference training is not supported",
    "deepspeed": "the adapter is small; run one process a GPU instead",
    "fsdp": "the adapter is small; run one process a GPU instead",
    "image_max_pixels": "images are not supported",
    "video_max_pixels": "video is not supported",
    "freeze_trainable_layers": "only LoRA is supported",
}
"""Things this program does not do; going on without them would train something else."""
