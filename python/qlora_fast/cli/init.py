"""``qlora-fast init``: a config for a data file."""

from __future__ import annotations

from pathlib import Path

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place


@click.command("init", short_help="Write a config for a data file.")
@click.argument("data", type=Place(), nargs=-1, required=True, metavar="DATA...")
@click.option(
    "--model",
    metavar="MODEL",
    type=Place(),
    default="smollm2-135m-instruct",
    show_default=True,
    help="A folder, a .gguf file, or a Hub id.",
)
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=Place(allow_dash=True),
    help="Where to write it; `-` for stdout. Default: the data's name and .yaml.",
)
def command(data: tuple[str, ...], model: str, out: str | None) -> None:
    """Look at DATA, the model and this machine, and write a config in which every choice is explained.

    \b
    qlora-fast init data.json                             writes data.yaml
    qlora-fast init data.json --model Qwen/Qwen3-0.6B
    qlora-fast init train.jsonl more.jsonl -o my.yaml

    Nothing is trained, and nothing but the config is written. It is an ordinary config: change what you like.
    """
    from qlora_fast import atomic_io
    from qlora_fast.config import overrides
    from qlora_fast.errors import ConfigError
    from qlora_fast.train.suggest import Machine, suggest

    path = Path(out or f"{Path(data[0]).name.split('.')[0].strip('-*') or 'data'}.yaml")
    if out != "-" and path.exists():
        raise ConfigError(f"`{path}` already exists", hint="give another name: -o FILE")
    names = [name for word in data for name in overrides([f"dataset={word}"])["dataset"]]
    with progress.shown(waiting="looking at this machine"):
        machine = Machine.here()
    with progress.shown() as tick:
        written = suggest(names, model, machine, tick)
    if out == "-":
        console.out_piece(written)
        return
    atomic_io.write_text(path, written)
    console.out(str(path))
    console.next_step("plan", path)
