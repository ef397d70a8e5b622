"""qlora-fast: from a data.json to a LoRA adapter, fast and with nothing lost silently.

::

    data.json ─▶ prepare() ─▶ PreparedDataset ─▶ plan() ─▶ rows ─▶ train ─▶ adapter

>>> import qlora_fast
>>> dataset = qlora_fast.prepare("data.json", model_name_or_path="models/Qwen3-0.6B")  # doctest: +SKIP
>>> dataset[0]["input_ids"], dataset[0]["labels"]  # doctest: +SKIP
>>> qlora_fast.plan(dataset, per_device_train_batch_size=8)  # doctest: +SKIP

Importing this package is instant: names are loaded when they are first used, torch only for training.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qlora_fast.config import Config
    from qlora_fast.data.dataset import PreparedDataset, open_prepared
    from qlora_fast.data.plan import plan
    from qlora_fast.data.prepare import prepare
    from qlora_fast.errors import QloraFastError

_HOME = {
    "Config": "config",
    "PreparedDataset": "data.dataset",
    "QloraFastError": "errors",
    "open_prepared": "data.dataset",
    "plan": "data.plan",
    "prepare": "data.prepare",
}
__all__ = ["Config", "PreparedDataset", "QloraFastError", "open_prepared", "plan", "prepare"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `qlora_fast` has no attribute `{name}`")
    value = getattr(importlib.import_module(f"qlora_fast.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
