"""An adapter as files: the two that PEFT loads, and a folder around them that `chat` and `merge` understand."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from qlora_fast import atomic_io
from qlora_fast.data.saved_tokenizer import save_tokenizer
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.hub import manifest
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.pissa import plain_settings
from qlora_fast.runs import layout
from qlora_fast.runs.adapter_card import write_card


def write_adapter(
    folder: Path, model: nn.Module, adapter: Adapter, base: str | None = None, weights: Path | None = None
) -> None:
    """The two files that make a folder a PEFT adapter; equal weights give equal bytes.

    Args:
        base: what to name as the base model, if not the place that it was loaded from.
        weights: a file to copy the weights from, instead of those that the adapter has now.
    """
    if weights is None:
        atomic_io.save_tensors(adapter.tensors(), folder / layout.ADAPTER_WEIGHTS, metadata={"format": "pt"})
    else:
        shutil.copyfile(weights, folder / layout.ADAPTER_WEIGHTS)
    config = model.peft_config["default"].to_dict()  # type: ignore[index, union-attr]
    if adapter.origin is not None:
        config = plain_settings(config)
    config["inference_mode"] = True
    if base is not None:
        config["base_model_name_or_path"] = base
    # PEFT keeps names in sets, whose order changes from process to process.
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    text = atomic_io.json_text(plain, indent=2)
    (folder / layout.ADAPTER_CONFIG).write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """Writes the run's adapter with its tokenizer, its card and a manifest: ``best/``, ``last/``, the final adapter."""

    model: nn.Module
    adapter: Adapter
    tokenizer: Tokenizer
    base: str

    def write(self, folder: Path, update: int, weights: Path | None = None) -> None:
        """Replace ``folder`` by the adapter after ``update`` optimizer steps, complete or not at all.

        Args:
            weights: a file to copy the weights from, instead of those that the adapter has now.

        Raises:
            StorageError: it cannot be written; what was there before stays.
        """
        with atomic_io.new_folder(folder) as made:
            write_adapter(made, self.model, self.adapter, self.base, weights)
            save_tokenizer(self.tokenizer, made)
            write_card(made, self.base, self.tokenizer, atomic_io.sha256_of(self.tokenizer.folder / "tokenizer.json"))
            manifest.write(made, {"update": update})
