"""LoRA and QLoRA fine-tuning, from a data.json to an adapter. Every row of the data is accounted for.

::

    data.json ─▶ prepare() ─▶ PreparedDataset ─▶ plan() ─▶ EpochPlan        no torch up to here
                     config ─▶ train() ─▶ run folder ─▶ evaluate(), merge(), open_chat()

>>> import qlora_fast
>>> dataset = qlora_fast.prepare("data.json", model_name_or_path="models/tiny")
>>> sorted(dataset[0])
['input_ids', 'labels']
>>> epoch = qlora_fast.plan(dataset, per_device_train_batch_size=4)
>>> int(epoch.supervised.sum()) == int(dataset.supervised.sum())
True

Importing this package is instant: a name is loaded when it is first used, torch only by ``train``, ``evaluate``,
``merge`` and ``open_chat``. docs/python.md shows them in use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qlora_fast._core import EpochPlan, __version__
    from qlora_fast.chat.commands import Chat, open_chat
    from qlora_fast.chat.session import ChatSession, Sampling
    from qlora_fast.config import Config
    from qlora_fast.data.dataset import PreparedDataset, open_prepared
    from qlora_fast.data.plan import plan
    from qlora_fast.data.prepare import prepare
    from qlora_fast.errors import (
        ArtifactError,
        ConfigError,
        DataError,
        Interrupted,
        OutOfMemoryError,
        PeerError,
        PeerGone,
        QloraFastError,
        StorageError,
        TokenizerError,
        TrainingError,
    )
    from qlora_fast.merge.merge import Merged, merge
    from qlora_fast.train.api import evaluate, train

_HOME = {
    "ArtifactError": "errors",
    "Chat": "chat.commands",
    "ChatSession": "chat.session",
    "Config": "config",
    "ConfigError": "errors",
    "DataError": "errors",
    "EpochPlan": "_core",
    "Interrupted": "errors",
    "Merged": "merge.merge",
    "OutOfMemoryError": "errors",
    "PeerError": "errors",
    "PeerGone": "errors",
    "PreparedDataset": "data.dataset",
    "QloraFastError": "errors",
    "Sampling": "chat.session",
    "StorageError": "errors",
    "TokenizerError": "errors",
    "TrainingError": "errors",
    "__version__": "_core",
    "evaluate": "train.api",
    "open_chat": "chat.commands",
    "open_prepared": "data.dataset",
    "plan": "data.plan",
    "prepare": "data.prepare",
}
"""Where each name is defined. ``train`` and ``merge`` are rooms that can be called, and import themselves."""
__all__ = [
    "ArtifactError",
    "Chat",
    "ChatSession",
    "Config",
    "ConfigError",
    "DataError",
    "EpochPlan",
    "Interrupted",
    "Merged",
    "OutOfMemoryError",
    "PeerError",
    "PeerGone",
    "PreparedDataset",
    "QloraFastError",
    "Sampling",
    "StorageError",
    "TokenizerError",
    "TrainingError",
    "__version__",
    "evaluate",
    "merge",
    "open_chat",
    "open_prepared",
    "plan",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("merge", "train"):
        return importlib.import_module(f"qlora_fast.{name}")
    if name not in _HOME:
        raise AttributeError(f"module `qlora_fast` has no attribute `{name}`")
    value = getattr(importlib.import_module(f"qlora_fast.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
