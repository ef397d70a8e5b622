"""``qlora-fast evaluate``: loss, perplexity and accuracy of a finished run, on what it held out or on other data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place, complete_settings
from qlora_fast.cli.figures import figure

if TYPE_CHECKING:
    from qlora_fast.train.evaluate_run import Evaluated


@click.command("evaluate", short_help="Measure an adapter.")
@click.argument("subject", type=Place(), metavar="RUN|ADAPTER|MODEL")
@click.argument("settings", nargs=-1, metavar="[dataset=FILE] [KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--base", is_flag=True, help="The base model without the adapter, to see the effect of training.")
@click.option("--name", help="Name of this evaluation for `compare --on NAME`; default: the data file's.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
def command(subject: str, settings: tuple[str, ...], base: bool, name: str | None, as_json: bool) -> None:
    """Evaluate a run's adapter on the rows that it held out, or on the files of dataset=….

    \b
    qlora-fast evaluate runs/base                         what the run held out
    qlora-fast evaluate runs/base --base                  the same rows, without the adapter
    qlora-fast evaluate runs/base dataset=test.json       another file
    qlora-fast evaluate runs/base/best dataset=test.json  another of its adapters
    qlora-fast evaluate smollm2-135m-instruct dataset=test.json
    torchrun --standalone --nproc-per-node gpu -m qlora_fast.cli evaluate runs/base shard_base=world

    Loss and perplexity weigh every supervised token alike; the figure that transformers would report is printed beside them. The
    score of each sample goes to eval_samples.jsonl: in the run's folder for its own rows, in RUN/eval/NAME for others.
    """
    from qlora_fast.config import overrides
    from qlora_fast.train.joining import joined

    given = overrides(settings)
    data = given.pop("dataset", None)
    with joined() as ranks:
        with progress.shown(waiting=f"loading {subject}"):
            from qlora_fast.train import evaluate_run

            with ranks.in_turn():
                who = evaluate_run.subject_of(subject, base_only=base, settings=given)
        with progress.shown() as prepared, progress.shown("samples") as tick:
            done = evaluate_run.score(
                who, data=data or None, name=name, ranks=ranks,
                on_prepare=prepared, on_samples=lambda n, of: tick("evaluating", n, of),
            )  # fmt: skip
    if not ranks.first:
        return
    difference = evaluate_run.adapter_minus_base(who, done) if base else None
    if done.results["trained_on"]:
        console.warn(
            f"{done.results['trained_on']:,} of {done.results['eval_samples']:,} samples are ones that the run was trained on: "
            "this loss says nothing about new data"
        )
    if as_json:
        console.out_json({**done.results, **({"adapter_minus_base": difference} if difference else {})})
        return
    _show(done, difference)


def _show(done: Evaluated, difference: dict[str, float | str] | None) -> None:
    from qlora_fast.runs.layout import EVAL_SAMPLES

    results = done.results
    lines = [
        (
            "evaluated",
            f"{results['evaluated']}, {results['eval_samples']:,} samples, {results['eval_tokens']:,.0f} supervised tokens",
        ),
        (
            "loss",
            f"{figure(results['eval_loss'], 4)}  (as transformers would average it: {figure(results['eval_loss_hf'], 4)})",
        ),
        ("perplexity", figure(results["perplexity"], 3)),
        ("accuracy", f"{results['eval_accuracy']:.1%} of the tokens predicted correctly"),
        ("time", f"{results['eval_runtime']:.1f} s, {results['eval_samples_per_second']:.1f} samples/s"),
    ]
    for name, value in results.items():
        if name.startswith("eval_") and name.endswith("_loss") and name != "eval_loss":
            lines.append(("of which", f"{figure(value, 4)}  {name[5:-5]}"))
    if difference:
        lines.append(
            (
                "adapter",
                f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}] against this base: "
                f"{difference['verdict']}",
            )
        )
    if done.folder is not None:
        lines.append(("samples", str(done.folder / EVAL_SAMPLES)))
    console.rows_out(lines)
