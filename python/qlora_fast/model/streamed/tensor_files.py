"""The weights of a model folder, read a tensor at a time without mapping the files: what was read once takes no memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qlora_fast.errors import ArtifactError
from qlora_fast.hub.untrusted import weight_files

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class TensorFiles:
    """The safetensors files of a folder.

    Raises:
        ArtifactError: one is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places = {name: place for path in weight_files(folder) for name, place in _header(path).items()}

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def read(self, name: str) -> Tensor:
        """A tensor as it is stored, on the host."""
        place = self._places[name]
        out = torch.empty(place.shape, dtype=place.dtype)
        self._read(place, out)
        return out

    def read_into(self, name: str, out: Tensor) -> None:
        """A tensor in the dtype and on the device of ``out``, which is overwritten.

        Raises:
            ArtifactError: it has another shape.
        """
        place = self._place(name, out.shape)
        if out.device.type == "cpu" and out.dtype == place.dtype and out.is_contiguous():
            self._read(place, out)
        else:
            out.copy_(self.read(name))

    def pieces(self, name: str, shape: torch.Size, size: int) -> Iterator[Tensor]:
        """The values of a tensor in their order, (≤ size,) at a time, as they are stored. The next piece overwrites the last.

        Raises:
            ArtifactError: it has another shape.
        """
        place = self._place(name, shape)
        buffer = torch.empty(min(size, shape.numel()), dtype=place.dtype)
        with place.path.open("rb", buffering=0) as file:
            file.seek(place.start)
            for start in range(0, shape.numel(), size):
                piece = buffer[: shape.numel() - start]
                _read_next(file, place, piece)
                yield piece

    def _place(self, name: str, shape: torch.Size) -> _Place:
        place = self._places[name]
        if place.shape != tuple(shape):
            raise ArtifactError(
                f"`{name}` in `{place.path}` has the shape {place.shape}, the model's is {tuple(shape)}",
                hint="the config.json is of another model: get the folder again",
            )
        return place

    @staticmethod
    def _read(place: _Place, out: Tensor) -> None:
        with place.path.open("rb", buffering=0) as file:
            file.seek(place.start)
            _read_next(file, place, out)


def _read_next(file: FileIO, place: _Place, out: Tensor) -> None:
    # Not by numpy: what it has seen of a tensor's storage can no longer be freed before the tensor is.
    memory = (ctypes.c_char * out.nbytes).from_address(out.data_ptr()) if out.nbytes else b""
    buffer = memoryview(memory).cast("B")
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])
        if not count:
            raise ArtifactError(f"`{place.path}` is truncated", hint="get the file again from where it came")
        done += count


def _header(path: Path) -> dict[str, _Place]:
    try:
        with safe_open(path, framework="pt"):
            pass  # the library checks the header: no tensor lies outside of the file or over another
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = msgspec.json.decode(file.read(size))
        return {
            name: _Place(
                path,
                _DTYPES[entry["dtype"]],
                tuple(entry["shape"]),
                8 + size + entry["data_offsets"][0],
                8 + size + entry["data_offsets"][1],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise ArtifactError(f"`{path}` cannot be read: {error}", hint="get the file again") from error
