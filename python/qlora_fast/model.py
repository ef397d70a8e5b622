"""The frozen base model, in 16, 32 or 4 bits, and the adapter that is trained on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qlora_fast.attention import NAME, refuse_unpackable
from qlora_fast.errors import ArtifactError, ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Quantization:
    """4-bit storage of the frozen weights (Dettmers et al. 2023): the code book, and whether its scales are 8 bits."""

    kind: str = "nf4"
    double: bool = True


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The adapter: W + alpha/rank · B·A on each target layer (Hu et al. 2021)."""

    rank: int
    alpha: float
    dropout: float
    target: Sequence[str]


def pick_device(rank: int = 0) -> torch.device:
    """The GPU of this rank, or the CPU."""
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """bf16 or fp32; ``auto`` is bf16 on a GPU that computes in it. On a CPU fp32 keeps a resumed run bit-identical."""
    if wanted == "bf16":
        return torch.bfloat16
    if wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def load_base(
    path: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    packing: str = "exact",
    quantization: Quantization | None = None,
) -> nn.Module:
    """Load a causal language model, frozen, without ever running code that came with it.

    Args:
        path: a local folder or a hub id. packing: ``exact`` and ``dense`` need a model of full attention only.

    Raises:
        ArtifactError: no such model, or its files are damaged.
        ConfigError: the model cannot be packed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    quiet_libraries()
    try:
        config = AutoConfig.from_pretrained(path)
        if packing in ("exact", "dense"):
            refuse_unpackable(config, packing)
        arguments: dict[str, Any] = {"dtype": dtype, "attn_implementation": NAME if _full_attention(config) else "sdpa"}
        if quantization is not None:
            arguments |= {"quantization_config": _bitsandbytes(quantization, dtype), "device_map": {"": str(device)}}
        model: nn.Module = AutoModelForCausalLM.from_pretrained(path, **arguments)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        where = "the folder" if Path(path).is_dir() else "a hub id that cannot be reached, or no such folder"
        raise ArtifactError(f"cannot load the model `{path}` ({where}): {first}", hint="check model_name_or_path") from error
    model.requires_grad_(False)
    return model if quantization is not None else model.to(device)


def add_lora(model: nn.Module, spec: LoraSpec, *, compute_dtype: torch.dtype, checkpointing: bool = False) -> nn.Module:
    """Put a fresh adapter on a frozen model; its weights are fp32 and follow torch's global seed.

    Raises:
        ConfigError: a target is no linear layer of the model.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=lora_targets(model, spec.target),
        task_type=TaskType.CAUSAL_LM,
        bias="none",
    )
    adapted: nn.Module = get_peft_model(model, config)  # type: ignore[arg-type]
    return ready_to_train(adapted, compute_dtype=compute_dtype, checkpointing=checkpointing)


def ready_to_train(model: nn.Module, *, compute_dtype: torch.dtype, checkpointing: bool) -> nn.Module:
    """Training mode, without the casts of every LoRA input to fp32 that PEFT adds to a 16-bit model."""
    if compute_dtype != torch.float32:
        from peft.tuners.tuners_utils import BaseTunerLayer

        # Under autocast the adapter's products run in 16 bits anyway; the cast only costs memory.
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.cast_input_dtype_enabled = False  # type: ignore[assignment]
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    return model.train()


def lora_targets(model: nn.Module, wanted: Sequence[str]) -> list[str]:
    """Names of the layers that get an adapter; ``all`` is every linear layer but the head, by last name component."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    if list(wanted) == ["all"]:
        return sorted(names)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(
            f"`lora_target` names no linear layer of this model: {', '.join(unknown)}",
            hint=f"it has {', '.join(sorted(names))}; or `all`",
        )
    return list(wanted)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The adapter's parameters, in a fixed order."""
    return [p for p in model.parameters() if p.requires_grad]


def count(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; 4-bit weights count as what they stand for."""
    own = sum(p.numel() for p in trainable(model))
    return own, sum(_numel(p) for p in model.parameters())


def _numel(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def _full_attention(config: Any) -> bool:
    try:
        refuse_unpackable(config, "exact")
    except ConfigError:
        return False
    return True


def _bitsandbytes(quantization: Quantization, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.kind,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
    )


def quiet_libraries() -> None:
    """Keep the chatter of the libraries out of a run's output; their errors still come through."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(peft|bitsandbytes|transformers|torch).*")
