"""Where a frozen base can lie, and whether a run then fits: complete on each GPU, shared by several, or in main memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from qlora_fast.cli import console
from qlora_fast.cli.memory import PARTS

if TYPE_CHECKING:
    from qlora_fast.config import Config
    from qlora_fast.model.memory_estimate import Method, Shape
    from qlora_fast.model.sharded_memory import Placement, Verdict

BITS = (None, 8, 4)
_MARGIN = "GB are 10⁹ bytes; what a card has beyond its number (24 GB: 24 GiB) is left for the allocator"


@dataclass(frozen=True, slots=True)
class _Way:
    """A model, the bits and the place of its base, and what comes of it."""

    model: str
    bits: int | None
    place: Placement
    verdict: Verdict

    @property
    def answer(self) -> str:
        if not self.verdict.bytes_each:
            return ""
        return "yes" if self.verdict.fits else "no"

    def as_json(self) -> dict[str, Any]:
        memory = self.verdict.memory
        return {
            "model": self.model,
            "bits": self.bits,
            "base": self.place.name,
            "bytes": {**asdict(memory), "total": memory.total},
            "host_bytes": self.verdict.host,
            "fits": self.verdict.fits if self.verdict.bytes_each else None,
        }


def known_models(devices: int, gpu_memory: float | None, tokens: int, as_json: bool) -> None:
    """A line per model and place of the base, a column per width of the weights."""
    from qlora_fast.model.memory_estimate import Method
    from qlora_fast.model.shapes import LADDER, SHAPES, gb

    method = Method(tokens=tokens, checkpointing=True)
    ways = [way for model in LADDER for way in _ways(model, SHAPES[model], method, devices, gpu_memory)]
    if as_json:
        _out_json(devices, gpu_memory, tokens, ways)
        return
    lines = [["model", "base on", "16 bits", "", "8 bits", "", "4 bits", ""]]
    for start in range(0, len(ways), len(BITS)):
        row = ways[start : start + len(BITS)]
        cells = [cell for way in row for cell in (gb(way.verdict.memory.total), way.answer)]
        lines.append([row[0].model, row[0].place.name, *cells])
    _out_lines(lines)
    _out_notes(devices, gpu_memory, f"rank 8 on all linear layers, rows of {tokens:,} tokens, gradient checkpointing")


def of_a_config(
    config: Config, shape: Shape, devices: int, gpu_memory: float | None, tokens: int | None, as_json: bool
) -> None:
    """A column per place of the base and width of the weights, a line per part of the memory."""
    from qlora_fast.model.shapes import gb
    from qlora_fast.model.sharded_memory import planned

    longest = tokens or config.row_budget
    method = planned(config, longest)
    ways = _ways(config.model_name_or_path, shape, method, devices, gpu_memory)
    if as_json:
        _out_json(devices, gpu_memory, longest, ways)
        return
    lines = [["GB, base on", *(way.place.name for way in ways)], ["", *(_width(way, method) for way in ways)]]
    for part, words in PARTS.items():
        lines.append([words, *(gb(getattr(way.verdict.memory, part)) for way in ways)])
    if gpu_memory:
        lines.append([f"fits {gpu_memory:g} GB", *(way.answer for way in ways)])
    if any(way.place.offload for way in ways):
        lines.append(["in main memory", *(gb(way.verdict.host) for way in ways)])
    _out_lines(lines)
    recomputed = ", gradient checkpointing" if method.checkpointing else ""
    _out_notes(
        devices,
        gpu_memory,
        f"{config.model_name_or_path}: {shape.parameters:,} parameters, rank {config.lora_rank}, "
        f"rows of {longest:,} tokens{recomputed}",
    )


def _ways(model: str, shape: Shape, method: Method, devices: int, gpu_memory: float | None) -> list[_Way]:
    from qlora_fast.model.sharded_memory import GB, fits, placements

    size = int((gpu_memory or 0) * GB)
    return [
        _Way(
            model,
            bits,
            place,
            fits(shape, replace(method, bits=bits), place.devices, size, offload=place.offload),
        )
        for place in placements(devices)
        for bits in BITS
    ]


def _width(way: _Way, method: Method) -> str:
    return f"{way.bits or 8 * method.width} bits"


def _out_json(devices: int, gpu_memory: float | None, tokens: int, ways: list[_Way]) -> None:
    from qlora_fast.model.sharded_memory import GB

    size = None if gpu_memory is None else int(gpu_memory * GB)
    console.out_json(
        {"devices": devices, "gpu_memory": size, "tokens": tokens, "ways": [way.as_json() for way in ways]}
    )


def _out_lines(lines: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        first = f"{line[0]:<{widths[0]}}"
        rest = (f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        console.out("  ".join([first, *rest]).rstrip())


def _out_notes(devices: int, gpu_memory: float | None, run: str) -> None:
    each = f"GB on each of {devices} GPUs" if devices > 1 else "GB on the GPU"
    question = f"; yes, no: whether {gpu_memory:g} GB are enough" if gpu_memory else ""
    console.note(f"\n{each}{question}; {run}")
    console.note(_MARGIN)
