"""``qlora-fast train``: a config in, an adapter out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place, complete_settings
from qlora_fast.cli.figures import figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qlora_fast.config import Config


@click.command("train", short_help="Train an adapter.")
@click.argument("config_file", metavar="CONFIG.yaml", type=Place())
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE...]", shell_complete=complete_settings)
@click.option(
    "--dry-run", is_flag=True, help="Load everything, time a few rows, print time and memory of the run; write no run."
)
@click.option(
    "--resume-anyway",
    is_flag=True,
    help="Resume although settings, data or base model differ from the checkpoint's; print what differs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout.")
def command(config_file: str, settings: tuple[str, ...], dry_run: bool, resume_anyway: bool, as_json: bool) -> None:
    """Train a LoRA (or, with quantization_bit=4, QLoRA) adapter with the settings of CONFIG.yaml.

    \b
    qlora-fast train configs/base.yaml
    qlora-fast train configs/qwen3-0.6b-lora.yaml dataset=data.json output_dir=runs/mine lora_rank=16
    qlora-fast train configs/base.yaml resume_from_checkpoint=true
    torchrun --standalone --nproc-per-node 2 -m qlora_fast.cli train configs/qwen3-0.6b-lora.yaml dataset=data.json

    --dry-run measures on this machine, in a minute or two at most, and prints optimizer steps, learning rate, time and
    memory of the run; world_size=N plans it for N GPUs.

    Ctrl-C finishes the current optimizer step, writes a checkpoint and prints the command that resumes. A run resumes only with the
    settings, data and base model that its checkpoint names; --resume-anyway resumes it with others.
    """
    from qlora_fast.config import load
    from qlora_fast.errors import Interrupted
    from qlora_fast.train.joining import joined

    if dry_run:
        from qlora_fast.cli import rehearse

        rehearse.show(load(config_file, settings).config, as_json)
        return

    # Several processes find each other before anything can go wrong, so that one of them reports it.
    with joined() as ranks:
        loaded = load(config_file, settings)
        config = loaded.config
        for line in loaded.ignored:
            if ranks.first:
                console.note(f"ignored: {line}")

        try:
            with _watching() as watch:
                from qlora_fast.train.run import Watch, train  # torch: only now that the config is known to be sound

                results = train(config, Watch(*watch), resume_anyway=resume_anyway)
        except Interrupted:
            if ranks.first:
                _say_how_to_go_on(config, config_file, settings, ranks.world)
            raise
    if not ranks.first:
        return
    if as_json:
        console.out_json({"output_dir": config.output_dir, **results})
    else:
        _show(config, results)


def _say_how_to_go_on(config: Config, config_file: str, settings: tuple[str, ...], processes: int) -> None:
    words = [w for w in settings if not w.startswith(("resume_from_checkpoint=", "overwrite_output_dir="))]
    program = (
        "qlora-fast" if processes == 1 else f"torchrun --standalone --nproc-per-node {processes} -m qlora_fast.cli"
    )
    again = " ".join([program, "train", config_file, *words])
    console.note(f"\nstopped; a checkpoint was written to {config.output_dir}")
    console.note(f"resume with: {again} resume_from_checkpoint=true")


@contextmanager
def _watching() -> Iterator[tuple[Callable[[dict[str, float]], None], Callable[[int, int], None], progress.Tick]]:
    """Log lines, and on a terminal a bar below them."""
    if not console.on_terminal() or os.environ.get("RANK", "0") != "0":
        with progress.shown() as tick:
            yield _log_line, lambda update, total: None, tick
        return
    with progress.update_bar() as bar:

        def on_log(entry: dict[str, float]) -> None:
            bar.line(_line(entry))

        yield on_log, bar.update, bar.stage


def _log_line(entry: dict[str, float]) -> None:
    console.note(_line(entry))


def _line(entry: dict[str, float]) -> str:
    """One log entry as the guide prints it."""
    step = f"Step {int(entry['step'])}: "
    if "eval_loss" in entry:
        own = [(k, v) for k, v in entry.items() if k.startswith("eval_") and k.endswith("_loss") and k != "eval_loss"]
        each = "".join(f", {name}={figure(value, 4)}" for name, value in own)
        accuracy = f", eval_accuracy={entry['eval_accuracy']:.3f}" if "eval_accuracy" in entry else ""
        loss, perplexity = figure(entry["eval_loss"], 4), figure(entry["perplexity"], 2)
        return f"{step:<10}eval_loss={loss}, perplexity={perplexity}{accuracy}{each}"
    return (
        f"{step:<10}loss={entry['loss']:.4f}, lr={entry['learning_rate']:.1e}, grad_norm={entry['grad_norm']:.2f}, "
        f"epoch={entry['epoch']:.2f}, {entry['tokens_per_second']:,.0f} tok/s"
    )


def _show(config: Config, results: dict[str, Any]) -> None:
    output = Path(config.output_dir)
    lines = [
        ("adapter", str(output)),
        (
            "train",
            f"loss {results['train_loss']:.4f}, {results['train_steps']:,} updates in {results['train_runtime']:,.0f} s",
        ),
    ]
    memory = results["memory"]
    bits = f", {memory['quantized_weights'] / 2**30:.2f} of them quantized" if memory["quantized_weights"] else ""
    lines.append(
        (
            "memory",
            f"{memory['peak'] / 2**30:.2f} GiB at most: weights {memory['weights'] / 2**30:.2f}{bits}, "
            f"adapter {memory['adapter'] / 2**30:.2f}, optimizer {memory['optimizer'] / 2**30:.2f}",
        )
    )
    if "eval_loss" in results:
        best = f"best {figure(results['best_metric'], 4)} at update {results['best_step']}"
        if results["best_step"] is None:
            best = "none was finite"
        lines.append(
            (
                "eval",
                f"loss {figure(results['eval_loss'], 4)}, perplexity {figure(results['perplexity'], 2)} ({best})",
            )
        )
    lines.append(("ended", str(results["ended"])))
    pictures = [str(p) for p in sorted(output.glob("training_*.png"))]
    if pictures:
        lines.append(("pictures", ", ".join(pictures)))
    console.rows_out(lines)
    console.next_step("chat", output)
