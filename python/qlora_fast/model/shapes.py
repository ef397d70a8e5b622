"""Shapes of well-known models, and the guide's memory table beside what such runs take. No torch, no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_fast.errors import ConfigError, QloraFastError
from qlora_fast.hub import resolve, untrusted
from qlora_fast.model.memory_estimate import Memory, Method, Shape, estimate, full_fine_tuning

SHAPES: dict[str, Shape] = {
    "smollm2-135m-instruct": Shape(30, 576, 9, 3, 64, 1536, 49152, True),
    "qwen3-0.6b": Shape(28, 1024, 16, 8, 128, 3072, 151936, True, qk_norm=True),
    "qwen3-8b": Shape(36, 4096, 32, 8, 128, 12288, 151936, False, qk_norm=True),
    "qwen3-14b": Shape(40, 5120, 40, 8, 128, 17408, 151936, False, qk_norm=True),
    "qwen3-32b": Shape(64, 5120, 64, 8, 128, 25600, 151936, False, qk_norm=True),
    "qwen2.5-7b": Shape(28, 3584, 28, 4, 128, 18944, 152064, False, qkv_bias=True),
    "qwen2.5-14b": Shape(48, 5120, 40, 8, 128, 13824, 152064, False, qkv_bias=True),
    "qwen2.5-32b": Shape(64, 5120, 40, 8, 128, 27648, 152064, False, qkv_bias=True),
    "qwen2.5-72b": Shape(80, 8192, 64, 8, 128, 29568, 152064, False, qkv_bias=True),
    "llama-3.1-8b": Shape(32, 4096, 32, 8, 128, 14336, 128256, False),
    "llama-3.1-70b": Shape(80, 8192, 64, 8, 128, 28672, 128256, False),
}
"""From their config.json; the parameter counts that follow are the published ones (tests)."""
LADDER = ("qwen3-0.6b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "qwen2.5-72b")
"""A model of each usual size, for tables of what fits where."""
GUIDE = {
    "qwen3-0.6b": ("0.6B", 2.4, 1.2, 0.4),
    "qwen2.5-7b": ("7B", 28, 14, 4),
    "qwen2.5-14b": ("14B", 56, 28, 8),
    "qwen2.5-72b": ("72B", 288, 144, 36),
}
"""The guide's GB for full fine-tuning, LoRA and QLoRA."""


@dataclass(frozen=True, slots=True)
class GuideRow:
    """One cell of the guide's table (GB, as there) and what it is really made of."""

    size: str
    model: str
    method: str
    guide: float
    weights: int
    total: int
    left_out: str


def known_shape(model: str) -> Shape | None:
    """:func:`shape_of`, or None where its kind of layers is not counted."""
    try:
        return shape_of(model)
    except ConfigError:
        return None


def shape_of(model: str) -> Shape | None:
    """The shape of ``model_name_or_path``: a folder with a config.json, a hub id, or a name known here.

    Raises:
        ConfigError: its kind of layers is not counted.
    """
    known = None if (Path(model) / untrusted.MODEL_CONFIG).is_file() else _by_name(model)
    if known is not None:
        return known
    found = config_of(model)
    return None if found is None else Shape.of(found)


def config_of(model: str) -> dict[str, Any] | None:
    """The config.json of ``model_name_or_path``; None where it cannot be had without a download of the model."""
    folder = Path(model)
    if not (folder / untrusted.MODEL_CONFIG).is_file():
        if model.endswith(".gguf"):
            return None
        try:
            folder = resolve.tokenizer_folder(model)
        except QloraFastError:
            return None
    if not (folder / untrusted.MODEL_CONFIG).is_file():
        return None
    return untrusted.read_json(folder / untrusted.MODEL_CONFIG, untrusted.ModelConfig)


def _by_name(model: str) -> Shape | None:
    return SHAPES.get(model.rstrip("/").rsplit("/", 1)[-1].lower().removesuffix("-instruct")) or SHAPES.get(model)


def guide_table(tokens: int = 2048, rank: int = 8) -> list[GuideRow]:
    """The guide's memory table, row by row, with the parts that it left out.

    Activations are those of gradient checkpointing, without which they would be far more.
    """
    rows = []
    for model, (size, full, lora, qlora) in GUIDE.items():
        shape = SHAPES[model]
        more = "gradients and AdamW's state: 16 bytes per parameter, not 4; activations"
        rows.append(GuideRow(size, model, "full", full, 2 * shape.parameters, full_fine_tuning(shape), more))
        for method, guide, bits in (("LoRA", lora, None), ("QLoRA", qlora, 4)):
            memory = estimate(shape, Method(tokens=tokens, rank=rank, bits=bits, checkpointing=True))
            rows.append(GuideRow(size, model, method, guide, memory.weights, memory.total, _left_out(memory)))
    return rows


def _left_out(memory: Memory) -> str:
    parts = []
    if memory.constants:
        parts.append(f"embedding and head stay 16-bit {gb(memory.embedding)}, scales {gb(memory.constants)}")
    parts.append(f"adapter and optimizer {gb(memory.adapter + memory.optimizer)}")
    parts.append(f"activations {gb(memory.activations)}")
    parts.append(f"logits {gb(memory.logits)}")
    parts.append(f"workspace {gb(memory.workspace)}, CUDA {gb(memory.context)}")
    return ", ".join(parts)


def gb(size: float) -> str:
    """Billions of bytes, as the guide counts; small ones with two places."""
    return f"{size / 1e9:.2f}" if size < 9.995e9 else f"{size / 1e9:.1f}"
