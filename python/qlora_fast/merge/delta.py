"""What an adapter does to each weight of its base, in fp32: the arithmetic of a merge.

::

    LoRA    W + s·B·A                  s = alpha/r, with rank-stabilized LoRA alpha/√r
    DoRA    (W + s·B·A) · m/‖W + s·B·A‖    row by row, m learned
    whole   a module that was trained and saved itself replaces its weight

What is not one of these is refused by name: nothing of an adapter may be left out silently.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from qlora_fast.errors import ArtifactError
from qlora_fast.hub import untrusted
from qlora_fast.model.load import quiet_libraries
from qlora_fast.runs.layout import ADAPTER_WEIGHTS

_NEUTRAL = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r",
    "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "modules_to_save",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "megatron_core", "qalora_group_size", "ensure_weight_tying",
}  # fmt: skip
"""Settings of an adapter that are understood here, or that only its training needed."""
_MOVED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PREFIX = "base_model.model."
_PART = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector(?:\.weight)?)")


@dataclass(frozen=True, slots=True)
class Parts:
    """The matrices of one adapted layer; ``magnitude`` only with DoRA."""

    a: Tensor  # (R, D)
    b: Tensor  # (N, R)
    scale: float
    magnitude: Tensor | None  # (N,)

    def merged(self, weight: Tensor) -> Tensor:
        """The layer's weight with the adapter in it, fp32."""
        longer: Tensor = weight.float() + self.scale * (self.b.float() @ self.a.float())
        if self.magnitude is None:
            return longer
        lengths: Tensor = torch.linalg.norm(longer, dim=1)
        return longer * (self.magnitude.float() / lengths)[:, None]


@dataclass(frozen=True, slots=True)
class Update:
    """A whole adapter: layers by the name of their weight, weights that are replaced, and what PEFT saves of the base's
    own weights under an adapted head or embedding."""

    layers: dict[str, Parts]
    whole: dict[str, Tensor]
    under: dict[str, Tensor]
    keeps_tie: bool

    @property
    def names(self) -> set[str]:
        return {*self.layers, *self.whole}


def read_update(folder: Path) -> Update:
    """Read a PEFT adapter.

    Raises:
        ArtifactError: it is damaged, or of a kind that cannot be folded into its base exactly.
    """
    config = untrusted.check_adapter(folder)
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"`{folder}` holds no whole adapter: {error}", hint="give a finished run") from error
    _refuse_unknown(config, folder)
    groups: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    under: dict[str, Tensor] = {}
    for stored, tensor in tensors.items():
        name = stored.removeprefix(_PREFIX)
        part = _PART.fullmatch(name)
        if ".base_layer." in name:
            under[name.replace(".base_layer.", ".")] = tensor
        elif part is None:
            whole[name.replace(".modules_to_save.", ".")] = tensor
        else:
            groups.setdefault(part[1], {})[part[2].removesuffix(".weight")] = tensor
    odd = [n for n in whole if "lora_" in n] + [m for m, g in groups.items() if not {"lora_A", "lora_B"} <= set(g)]
    odd += [name for name in under if name.removesuffix(".weight") not in groups]
    if odd:
        raise ArtifactError(f"`{folder}` holds `{odd[0]}`, which this program cannot fold into a weight")
    rank, alpha = int(config.get("r", 8)), float(config.get("lora_alpha") or 8)  # PEFT's defaults
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    layers = {
        f"{module}.weight": Parts(group["lora_A"], group["lora_B"], scale, group.get("lora_magnitude_vector"))
        for module, group in groups.items()
    }
    return Update(layers, whole, under, bool(config.get("ensure_weight_tying")))


def _refuse_unknown(config: dict[str, Any], folder: Path) -> None:
    quiet_libraries()
    from peft import LoraConfig

    if config.get("peft_type") != "LORA":
        raise ArtifactError(f"`{folder}` is an adapter of type {config.get('peft_type')}, not LoRA")
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_MOVED_BASE):
        raise ArtifactError(
            f"`{folder}` belongs to a base that was changed when training began (init_lora_weights: {start})",
            hint="convert it to a plain adapter first: save_pretrained(…, path_initial_model_for_weight_conversion=…) of PEFT",
        )
    plain = LoraConfig().to_dict()
    odd = [name for name, value in config.items() if name not in _NEUTRAL and value and value != plain.get(name)]
    if odd:
        raise ArtifactError(
            f"`{folder}` was made with `{odd[0]}`, which this program cannot fold into the weights",
            hint="PEFT may: PeftModel.from_pretrained(…).merge_and_unload()",
        )


def nearest(wanted: Tensor, base: Tensor, dtype: torch.dtype) -> Tensor:
    """``wanted`` (fp32) in ``dtype``; where the update changes nothing the base keeps its very bits (a −0 stays one)."""
    rounded = wanted.to(dtype)
    return torch.where(wanted == base.float(), base, rounded) if base.dtype == dtype else rounded
