"""Settings of the base model and of the adapter on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from qlora_fast.config.keys.table import Count, Positive, ShareBelowOne, key

Dtype = Literal["auto", "bf16", "fp16", "fp32"]
QuantizationBits = Literal[4, 8]
QuantizationMethod = Literal["bnb"]
QuantizationType = Literal["nf4", "fp4"]
Checkpointing = Literal["auto", "true", "false"]
Kernels = Literal["auto", "off"]
ShardBase = Literal["off", "auto", "node", "world"]
CudaGraphs = Literal["auto", "off"]
TorchCompile = Literal["auto", "true", "false"]


@dataclass(frozen=True, kw_only=True)
class ModelKeys:
    """The frozen base model, and the type of its numbers."""

    model_name_or_path: str = key(
        "smollm2-135m-instruct",
        "base model: a folder, a .gguf file, a Hub id, or the embedded smollm2-135m-instruct",
        there="none: it must be named",
        affects="learning",
        path=True,
    )
    template: str = key(
        "auto",
        "chat template: a built-in name (`qlora-fast template list`), a YAML file, or jinja for the model's own text; "
        "auto takes the built-in one that renders as the model's own does, else jinja",
        there="none: the tokenizer's own",
        affects="learning",
        path=True,
    )
    default_system: str | None = key(
        None, "system prompt of rows without one; '' for none; unset: the template's own", affects="learning"
    )
    dtype: Dtype = key(
        "auto",
        "type of the numbers of the frozen base and of the arithmetic: auto is bf16 where the hardware computes it fast, "
        "else fp32; on a CPU that computes bf16 fast, only the products with frozen weights use it, in training",
        theirs=None,
        affects="learning",
    )
    bf16: bool = key(
        False,
        "the guide's spelling of dtype: bf16",
        differs="the base is held in bf16 too, without autocast; the adapter's own weights stay fp32",
        affects="learning",
    )
    fp16: bool = key(
        False,
        "the same as dtype: fp16: for GPUs before Ampere, which have no fast bf16; the loss is scaled against underflow",
        affects="learning",
    )
    quantization_bit: QuantizationBits | None = key(
        None,
        "4 or 8 loads the base in that many bits (QLoRA): a quarter or half of the memory, slower steps",
        unit="bits",
        lacks="2, 3, 5 and 6 (hqq)",
        affects="learning",
    )
    quantization_method: QuantizationMethod = key(
        "bnb", "library of the quantized kernels: bitsandbytes", lacks="hqq and eetq", affects="arithmetic"
    )
    quantization_type: QuantizationType = key(
        "nf4", "4-bit code book; nf4 fits normally distributed weights", affects="learning"
    )
    double_quantization: bool = key(
        True, "also quantize the scales of the 4-bit blocks: 0.4 bits less per weight", affects="learning"
    )
    gradient_checkpointing: Checkpointing = key(
        "auto",
        "recompute activations in the backward pass: less memory, 50 % more computation; auto: only when the "
        "longest row would not fit without",
        theirs="disable_gradient_checkpointing",
        differs="there it is on whether memory requires it or not",
        there="true",
        affects="result",
    )
    shard_base: ShardBase = key(
        "off",
        "with several GPUs, each keeps a part of the frozen base and gathers one layer at a time: less memory, more communication, the "
        "same result; world: over all processes, node: over those of one machine, auto: only if the base does not fit completely",
        theirs=None,
        affects="nothing",
    )
    offload_base: bool = key(
        False,
        "the frozen base stays in main memory, and each layer is copied to the GPU when it is used: for one GPU that is too small, "
        "slower, the same result",
        theirs=None,
        affects="nothing",
    )
    kernels: Kernels = key(
        "auto",
        "what the layers compute with: auto uses qlora-fast's kernels and grouped LoRA products where they run on the device and "
        "are faster; off keeps transformers' and PEFT's own code",
        theirs=None,
        affects="arithmetic",
    )
    torch_compile: TorchCompile = key(
        "auto",
        "compile the decoder layers with torch.compile, which takes half a minute or more: auto does it on a GPU, for models whose "
        "layers qlora-fast's kernels do not compute, in runs that are long enough, and keeps it if a row is faster; true: always",
        differs="there the whole model is compiled; here one layer, whose code all layers share",
        there="false",
        affects="arithmetic",
    )
    cuda_graphs: CudaGraphs = key(
        "auto",
        "forward and backward of rows of a few sizes are captured once on an NVIDIA GPU and replayed, where that is possible "
        "and faster; off: every operation is launched by Python",
        theirs=None,
        affects="result",
    )


@dataclass(frozen=True, kw_only=True)
class LoraKeys:
    """The adapter: the only part that is trained."""

    adapter_name_or_path: str | None = key(
        None,
        "start from the weights of this finished adapter (a run, a checkpoint or adapter in it, or another program's) instead "
        "of a new one; steps, learning rate and data are the new run's. It must be of the same base model, rank and layers",
        differs="one adapter; LLaMA-Factory merges the earlier ones of several into the base",
        affects="learning",
        path=True,
    )
    lora_rank: Count = key(
        8, "rank r of the adapter; a higher rank can learn more and costs more memory", affects="learning"
    )
    lora_alpha: Positive | None = key(
        None, "scale is alpha/rank; unset: 2·rank", affects="learning", compared_as="scale"
    )
    lora_dropout: ShareBelowOne = key(
        0.0, "share of the adapter's input that is dropped at random while training", unit="share", affects="learning"
    )
    lora_target: list[str] = key(
        ["all"],
        "layers that get an adapter: all (every linear layer but the head), or names such as q_proj,v_proj",
        affects="learning",
    )
    additional_target: list[str] = key(
        [],
        "layers that are trained completely and saved with the adapter, such as embed_tokens,lm_head",
        affects="learning",
    )
    use_rslora: bool = key(
        False, "rank-stabilized LoRA: scale is alpha/√rank, so that a high rank still learns", affects="learning"
    )
    use_dora: bool = key(
        False,
        "weight-decomposed LoRA: direction and length of each weight row are trained separately; slower, sometimes better",
        affects="learning",
    )
    pissa_init: bool = key(
        False,
        "start the adapter from the principal components of each weight (PiSSA), and the base from the rest; "
        "learns faster at first",
        affects="learning",
    )
    pissa_iter: Annotated[int, Meta(ge=-1)] = key(
        16, "iterations of the fast SVD of pissa_init; -1: the exact SVD", unit="iterations", affects="learning"
    )
    neftune_noise_alpha: Positive | None = key(
        None,
        "NEFTune: uniform noise of this size, ÷ √(tokens · width), on the embeddings while training; 5 is usual",
        affects="learning",
    )
