"""Saved adapters put on a model by PEFT, after their files were looked at: no pickle, no pattern that never ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.hub import untrusted
from qlora_fast.model.streamed.hooks import stream_of

_OWN_STARTS = ("gaussian", "orthogonal")
"""Values of ``init_lora_weights`` that read nothing of the base."""


def whole_modules(folder: Path) -> tuple[str, ...]:
    """The modules that an adapter's folder has whole, trained beside its matrices, by the last part of their names."""
    names = untrusted.check_adapter(folder).get("modules_to_save") or ()
    return tuple(sorted({name.rsplit(".", 1)[-1] for name in names}))


def load_adapter(model: nn.Module, folder: Path, name: str = "default", *, keep_dtype: bool = False) -> nn.Module:
    """Put a LoRA adapter on a base model, or beside the adapters that a model has.

    Args:
        model: a base model, or what this function returned for one.
        name: of the adapter; without a dot.
        keep_dtype: hold the adapter as it was saved; otherwise fp16 and bf16 become fp32.

    Returns:
        the model with the adapter, PEFT's.

    Raises:
        ArtifactError: the folder holds no complete LoRA adapter, or it does not fit the model.
        ConfigError: it needs weights of a base that is not on the device as a whole.
    """
    kind = untrusted.check_adapter(folder)["peft_type"]
    if kind != "LORA":
        raise ArtifactError(f"`{folder}` is an adapter of type {kind}, not LoRA")
    from peft import LoraConfig, PeftModel
    from safetensors import SafetensorError

    try:
        settings: Any = LoraConfig.from_pretrained(str(folder))
        if stream_of(model) is not None:
            _refuse_without_whole_weights(folder, settings)
        if isinstance(settings.target_modules, str) or settings.exclude_modules or settings.layers_pattern:
            # Regular expressions, which may never end; the weights say which modules they found.
            settings.target_modules = set(untrusted.adapted_modules(folder))
            settings.exclude_modules = settings.layers_to_transform = settings.layers_pattern = None
        if isinstance(model, PeftModel):
            having: Any = model
            having.add_adapter(name, settings)
            having.load_adapter(str(folder), adapter_name=name, autocast_adapter_dtype=not keep_dtype)
            same: nn.Module = model
            return same
        made: nn.Module = PeftModel.from_pretrained(
            model, str(folder), adapter_name=name, config=settings, autocast_adapter_dtype=not keep_dtype
        )
        return made
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        problem = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ArtifactError(
            f"the adapter `{folder}` does not fit the base model: {problem}",
            hint="give the base model that it was trained on",
        ) from error


def _refuse_without_whole_weights(folder: Path, settings: Any) -> None:
    """
    Raises:
        ConfigError: PEFT reads the base's weights when it puts this adapter on it.
    """
    start = settings.init_lora_weights
    kind = "DoRA" if settings.use_dora else start if isinstance(start, str) and start not in _OWN_STARTS else None
    if kind is not None:
        raise ConfigError(
            f"the adapter `{folder}` ({kind}) starts from the base's whole weights, which are not on the device",
            hint="merge it into its base (`qlora-fast merge`), or use a device that holds the base",
        )
