"""``qlora-fast generate``: the answers of an adapter or model to every row of a data file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place, verify_option

if TYPE_CHECKING:
    from qlora_fast.hub.manifest import Verify


@click.command("generate", short_help="Answer every row of a data file.")
@click.argument("subject", type=Place(), metavar="RUN|CHECKPOINT|ADAPTER|MODEL")
@click.argument("files", type=Place(), metavar="[DATA...]", nargs=-1)
@click.option("-o", "--out", required=True, type=Place(dir_okay=False, path_type=Path), help="The JSONL to write.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: the most likely token."
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
              help="Choose among the most likely tokens whose probabilities sum to this.")  # fmt: skip
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Tokens of an answer, at most."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Rows per forward pass.")
@click.option("--max-samples", type=click.IntRange(min=1), help="Only the first N rows.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal answers.")
@click.option("--base", metavar="MODEL", type=Place(), help="Base model, if it is no longer where it was at training.")
@click.option("--metrics", is_flag=True, help="Also BLEU-4 and ROUGE-L (pip install 'qlora-fast[metrics]').")
@verify_option
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
def command(
    subject: str,
    files: tuple[str, ...],
    out: Path,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_size: int,
    max_samples: int | None,
    seed: int,
    base: str | None,
    metrics: bool,
    verify: Verify | None,
    as_json: bool,
) -> None:
    """Answer the last question of every row of DATA, or of the rows that the run held out, and write the answers beside those
    of the data as JSONL: file, row, line, prompt, reference, answer, tokens, stopped.

    The prompts are rendered as in training. A call that was interrupted continues where it was.

    \b
    qlora-fast generate runs/base -o answers.jsonl                  what the run held out
    qlora-fast generate runs/base test.json -o answers.jsonl --metrics
    qlora-fast generate runs/base/checkpoint-40 test.json -o at40.jsonl
    """
    with progress.shown(waiting=f"loading {subject}"):
        from qlora_fast.chat.generate import Job, generate
        from qlora_fast.chat.session import Sampling

        job = Job(
            subject=subject,
            data=list(files),
            out=out,
            sampling=Sampling(temperature, top_p, max_new_tokens),
            batch_size=batch_size,
            max_samples=max_samples,
            seed=seed,
            base=base,
            verify=verify,
        )
    with progress.shown() as prepared, progress.shown("rows") as tick:
        answers = generate(job, on_prepare=prepared, on_answer=lambda done, of: tick("answering", done, of))
    from qlora_fast.chat.scores import bleu_and_rouge, exact_match

    figures: dict[str, Any] = {
        "out": str(out),
        "rows": len(answers),
        "exact_match": exact_match(answers),
        **{why: sum(a.stopped == why for a in answers) for why in ("stop", "length", "too_long")},
        **(bleu_and_rouge(answers) if metrics else {}),
    }
    if as_json:
        console.out_json(figures)
        return
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in figures.items()}
    console.rows_out(list(shown.items()))
    if figures["length"]:
        console.note(f"{figures['length']:,} answers reached --max-new-tokens {max_new_tokens}")
