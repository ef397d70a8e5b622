"""``adapter_name_or_path``: a new run that starts from the weights of a finished adapter instead of a new one.

Only the weights are taken over: data, learning rate, steps and the state of the optimizer are the new run's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from qlora_fast import atomic_io
from qlora_fast.config import Config
from qlora_fast.errors import ArtifactError, ConfigError, first_line
from qlora_fast.hub import untrusted
from qlora_fast.hub.manifest import Verify
from qlora_fast.runs import layout
from qlora_fast.runs.resolve import target_of
from qlora_fast.train.identity import base_identity

_SAME = {"r": "lora_rank", "use_rslora": "use_rslora", "use_dora": "use_dora"}
"""Fields of adapter_config.json, and the settings that must equal them."""


def check_named(config: Config) -> None:
    """Refuse an adapter that cannot be continued, as far as its files tell: before data and base model are read.

    Raises:
        ConfigError: it has another rank, scale or variant.
        ArtifactError: it is no complete adapter.
    """
    if config.adapter_name_or_path is not None:
        folder = _folder(config.adapter_name_or_path, config.verify)
        _check_settings(folder, untrusted.check_adapter(folder), config)


def start_from(model: nn.Module, config: Config, model_path: str) -> dict[str, str]:
    """Copy the weights of ``config.adapter_name_or_path`` into the new adapter of ``model``.

    Args:
        model: PEFT's, with the adapter that the config asks for.
        model_path: where the base model was loaded from.

    Returns:
        What run.json says of the parent: its folder and the hash of its weights.

    Raises:
        ConfigError: it was trained on another base model, or has another rank, scale, variant or other layers.
        ArtifactError: it is no complete adapter.
    """
    folder = _folder(str(config.adapter_name_or_path), config.verify)
    settings = untrusted.check_adapter(folder)
    _check_base(folder, model_path)
    _check_settings(folder, settings, config)
    weights = folder / layout.ADAPTER_WEIGHTS
    _copy(model, weights, folder)
    return {"adapter": str(folder.resolve()), "sha256": atomic_io.sha256_of(weights)}


def _folder(name: str, verify: Verify) -> Path:
    if "," in name and not Path(name).exists():
        raise ConfigError(
            f"`adapter_name_or_path` names several adapters: {name}",
            hint="merge all but the last into the base first (`qlora-fast merge RUN -o FOLDER`), and train on that",
        )
    return target_of(name).adapter_folder(verify)


def _check_base(folder: Path, model_path: str) -> None:
    """An adapter of ours knows the hash of the base that it was trained on; of another's, only shapes can be compared."""
    run = target_of(folder).run
    record = run / layout.RUN if run is not None else None
    if record is None or not record.is_file():
        return
    before = untrusted.read_json(record, untrusted.RunRecord).get("identity") or {}
    if before.get("base_weights") not in (None, base_identity(model_path)["base_weights"]):
        raise ConfigError(
            f"the adapter `{folder}` was trained on another base model than `{model_path}`",
            hint="set model_name_or_path to the base model of that run; its config.yaml names it",
        )


def _check_settings(folder: Path, settings: dict[str, Any], config: Config) -> None:
    if config.pissa_init:
        raise ConfigError(
            "`pissa_init` starts a new adapter, `adapter_name_or_path` continues one", hint="leave one of the two out"
        )
    theirs = {ours: settings.get(field) or False for field, ours in _SAME.items()}
    differing = [f"{name}={str(value).lower()}" for name, value in theirs.items() if value != getattr(config, name)]
    if settings.get("lora_alpha") not in (None, config.alpha):
        differing.append(f"lora_alpha={settings['lora_alpha']}")
    if differing:
        raise ConfigError(f"the adapter `{folder}` has other settings than this run", hint=f"set {' '.join(differing)}")


def _copy(model: nn.Module, weights: Path, folder: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"`{weights}` cannot be read: {first_line(error)}") from error
    expected: dict[str, torch.Tensor] = get_peft_model_state_dict(model)
    if state.keys() != expected.keys():
        theirs, ours = sorted({*map(_layer, state)}), sorted({*map(_layer, expected)})
        raise ConfigError(
            f"the adapter `{folder}` is on other layers than this run's: {', '.join(theirs)}, not {', '.join(ours)}",
            hint=f"set lora_target={','.join(theirs)}",
        )
    wrong = next((name for name in state if state[name].shape != expected[name].shape), None)
    if wrong is not None:
        raise ConfigError(
            f"the adapter `{folder}` does not fit the base model: {wrong} is {tuple(state[wrong].shape)}, not "
            f"{tuple(expected[wrong].shape)}",
            hint="set model_name_or_path to the base model that it was trained on",
        )
    set_peft_model_state_dict(model, state)


def _layer(name: str) -> str:
    """``…self_attn.q_proj.lora_A.weight`` → ``q_proj``."""
    before, marker, _ = name.partition(".lora_")
    return (before if marker else name.removesuffix(".weight")).rsplit(".", 1)[-1]
