"""``qlora-fast sweep``: several configs, one after another, then the table of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qlora_fast.cli import console
from qlora_fast.cli.arguments import Place, complete_settings, sort_words

if TYPE_CHECKING:
    from qlora_fast.runs.sweep import Member, Outcome


@click.command("sweep", short_help="Train several configs and compare them.")
@click.argument(
    "words",
    type=Place(),
    metavar="CONFIG.yaml... [KEY=VALUE...]",
    nargs=-1,
    required=True,
    shell_complete=complete_settings,
)
@click.option(
    "--output-dir",
    metavar="FOLDER",
    type=Place(),
    default="runs/sweep",
    show_default=True,
    help="Each run gets a folder of its name in it.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON on stdout.")
def command(words: tuple[str, ...], output_dir: str, as_markdown: bool, as_json: bool) -> None:
    """Train each CONFIG in a process of its own, then compare: a table, losses.png, and a verdict per run.

    KEY=VALUE settings go to every run. The first config is the baseline. Called again, a sweep skips what is finished and
    resumes what was stopped; Ctrl-C writes a checkpoint of the current run.

    The guide's five experiments on the embedded model, with a few rows of any Alpaca file:

    \b
    qlora-fast sweep configs/guide/*.yaml model_name_or_path=smollm2-135m-instruct template=auto \\
        dataset=data.json max_samples=300 val_size=48 eval_strategy=epoch per_device_train_batch_size=4 \\
        gradient_accumulation_steps=1 bf16=false --output-dir runs/guide
    """
    from qlora_fast.runs import sweep, table
    from qlora_fast.runs.read import read_runs

    configs, settings = sort_words(words)
    if not configs:
        raise click.UsageError("no config file given")
    folder = Path(output_dir)
    todo = sweep.members(configs, settings, folder)
    started = time.monotonic()

    def tell(member: Member, state: str, place: int) -> None:
        doing = {"new": "training", "started": "resuming", "finished": "found finished:"}[state]
        console.note(f"[{place + 1}/{len(todo)}] {doing} {member.name}")

    outcomes = sweep.run(todo, tell)
    console.note(f"{len(todo)} runs in {(time.monotonic() - started) / 60:.1f} min\n")
    finished = [o.member.output for o in outcomes if o.done]
    if finished:
        from qlora_fast.cli.compare import show

        runs = read_runs(finished)
        show(table.report(runs), runs, str(folder / "losses.png"), as_markdown=as_markdown, as_json=as_json)
    _fail_for([o for o in outcomes if not o.done])


def _fail_for(failed: list[Outcome]) -> None:
    """One message for all runs that failed; each has said why itself."""
    if not failed:
        return
    from qlora_fast.errors import TrainingError

    names = ", ".join(f"{o.member.name} (exit status {o.status})" for o in failed)
    raise TrainingError(
        f"{len(failed)} of the runs did not finish: {names}",
        hint="the reasons are above; fix them and run the sweep again: finished runs are skipped",
    )
