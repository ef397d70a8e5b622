"""``qlora-fast memory``: the memory of a run, part by part, estimated from the model's shape."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console
from qlora_fast.cli.arguments import Place, complete_settings

if TYPE_CHECKING:
    from qlora_fast.config import Config
    from qlora_fast.model.memory_estimate import Shape

PARTS = {
    "embedding": "embedding, head",
    "linear": "linear layers",
    "constants": "quantization constants",
    "adapter": "adapter, its gradient",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits (a chunk)",
    "workspace": "workspace",
    "gathered": "gathered for a moment",
    "context": "CUDA context",
    "total": "total",
}


@click.command("memory", short_help="Estimate the GPU memory of a run.")
@click.argument("config_file", metavar="[CONFIG.yaml]", type=Place(), required=False)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens of the longest row; default: the config's budget.")
@click.option("--devices", type=click.IntRange(min=1), help="GPUs that share the base; 1: the base in main memory.")
@click.option("--gpu-memory", type=click.FloatRange(min=0, min_open=True), help="GB of each GPU: does the run fit?")
@click.option("--json", "as_json", is_flag=True, help="Print bytes as JSON on stdout.")
def command(
    config_file: str | None,
    settings: tuple[str, ...],
    tokens: int | None,
    devices: int | None,
    gpu_memory: float | None,
    as_json: bool,
) -> None:
    """Estimate the GPU memory of a LoRA run and of the same run as QLoRA, part by part. Needs no GPU, torch or weights.

    Without a config, it prints the guide's memory table beside complete estimates, with what the table leaves out.
    With --devices or --gpu-memory it shows where the frozen base can lie (complete on each GPU, shared by several, in main
    memory) and whether the run fits; without a config, for models from 0.6B to 72B.

    \b
    qlora-fast memory
    qlora-fast memory configs/qwen3-8b-qlora.yaml lora_rank=32 cutoff_len=4096
    qlora-fast memory --devices 4 --gpu-memory 24
    qlora-fast memory configs/qwen3-8b-qlora.yaml --devices 1 --gpu-memory 6
    """
    if config_file is None or "=" in config_file:
        if config_file is not None:
            raise click.UsageError("give a config file before the settings")
        if devices or gpu_memory:
            from qlora_fast.cli.views import placement

            placement.known_models(devices or 1, gpu_memory, tokens or 2048, as_json)
        else:
            _guide(tokens or 2048, as_json)
        return
    from qlora_fast.config import load

    config = load(config_file, settings).config
    if devices or gpu_memory:
        from qlora_fast.cli.views import placement

        placement.of_a_config(config, _shape(config), devices or 1, gpu_memory, tokens, as_json)
    else:
        _of_a_config(config, tokens, as_json)


def _guide(tokens: int, as_json: bool) -> None:
    from qlora_fast.model.shapes import gb, guide_table

    rows = guide_table(tokens)
    if as_json:
        console.out_json([asdict(row) for row in rows])
        return
    console.out(f"{'':<5} {'method':<6} {'the guide':>9} {'weights':>8} {'total':>8}  GB; what the guide leaves out")
    last = ""
    for row in rows:
        size = row.size if row.size != last else ""
        last = row.size
        console.out(
            f"{size:<5} {row.method:<6} {row.guide:>9g} {gb(row.weights):>8} {gb(row.total):>8}  {row.left_out}"
        )
    console.note(
        f"\nLoRA and QLoRA: rank 8 on all linear layers, rows of {tokens:,} tokens, gradient checkpointing; shapes of "
        "Qwen3-0.6B and Qwen2.5"
    )
    console.note("your own run: qlora-fast memory CONFIG.yaml")


def _shape(config: Config) -> Shape:
    from qlora_fast.errors import ConfigError
    from qlora_fast.hub import places
    from qlora_fast.model.shapes import shape_of

    name = config.model_name_or_path
    shape = shape_of(name)
    if shape is None:
        if Path(name).is_dir():
            raise places.no_model(Path(name))
        places.refuse_path(name)
        raise ConfigError(
            f"the shape of `{name}` is unknown",
            hint=places.near(name) or "give a folder with the model's config.json (weights are not needed)",
        )
    return shape


def _of_a_config(config: Config, tokens: int | None, as_json: bool) -> None:
    from qlora_fast.model.memory_estimate import variants
    from qlora_fast.model.shapes import gb
    from qlora_fast.train.row_budget import is_open

    shape = _shape(config)
    longest = tokens or config.row_budget
    columns: dict[str, dict[str, Any]] = {
        name: {**asdict(memory), "total": memory.total} for name, memory in variants(shape, config, longest).items()
    }
    if as_json:
        console.out_json({"tokens": longest, "parameters": shape.parameters, "bytes": columns})
        return
    console.out(f"{'GB':<24}" + "".join(f"{name:>24}" for name in columns))
    for part, words in PARTS.items():
        if part == "gathered":
            continue  # the base is complete on the GPU
        console.out(f"{words:<24}" + "".join(f"{gb(column[part]):>24}" for column in columns.values()))
    console.note(
        f"\n{config.model_name_or_path}: {shape.parameters:,} parameters, rank {config.lora_rank}, rows of {longest:,} tokens"
    )
    if tokens is None and is_open(config):
        console.note(
            "max_tokens_per_row: auto may take longer rows: `qlora-fast plan` shows them for your data, --tokens N estimates them"
        )
    console.note(
        "memory that the allocator reserves is not included; measured on your machine: qlora-fast train … --dry-run"
    )
