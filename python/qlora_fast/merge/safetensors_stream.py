"""safetensors files written one tensor at a time: a model of any size passes through the memory of one of its tensors.

The library's own ``save_file`` wants a whole shard at once. The format is simple enough to be written as it comes: eight
bytes of length, a JSON header with every tensor's place, the tensors' bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qlora_fast.errors import ArtifactError
from qlora_fast.hub.untrusted import INDEX

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's description: what stands in a file's header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> list[Entry]:
    """The tensors of a file, in the order in which they are stored.

    Raises:
        ArtifactError: the header is damaged, or a tensor has a type that is unknown here.
    """
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.offset_keys()}
            return [Entry(name, _DTYPES[part.get_dtype()], tuple(part.get_shape())) for name, part in parts.items()]
    except (SafetensorError, OSError, KeyError) as error:
        raise ArtifactError(f"`{path}` cannot be read: {error}") from error


def write_file(path: Path, entries: Sequence[Entry], tensor_of: Callable[[Entry], Tensor]) -> None:
    """Write a file; each tensor is asked for when its turn comes, and let go after it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, start + entry.bytes],
        }  # fmt: skip
        start += entry.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for entry in entries:
            tensor = tensor_of(entry)
            if tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
                raise ValueError(f"{entry.name}: {tensor.dtype} {tuple(tensor.shape)} instead of {entry}")
            file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_index(folder: Path, files: dict[str, Sequence[Entry]]) -> None:
    """The index of several files; none for a single one."""
    if len(files) == 1:
        return
    every = [(entry, name) for name, entries in files.items() for entry in entries]
    index = {
        "metadata": {"total_size": sum(entry.bytes for entry, _ in every)},
        "weight_map": {entry.name: name for entry, name in every},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
