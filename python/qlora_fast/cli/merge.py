"""``qlora-fast merge``: base model and adapter in one set of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place, verify_option

if TYPE_CHECKING:
    from qlora_fast.hub.manifest import Verify
    from qlora_fast.merge.merge import Merged


@click.command("merge", short_help="Merge an adapter into its base model.")
@click.argument("run", type=Place(), metavar="RUN|CHECKPOINT|ADAPTER")
@click.option("-o", "--out", metavar="FOLDER", required=True, type=Place(path_type=Path), help="The folder to write.")
@click.option("--base", metavar="MODEL", type=Place(), help="Base model, if it is no longer where it was at training.")
@click.option("--dtype", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="auto", show_default=True,
              help="Of the merged weights; auto: that of the base model.")  # fmt: skip
@click.option("--check/--no-check", default=True, help="Compare the logits with those of base and adapter.")
@click.option("--check-dtype", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True,
              help="Precision of the check; bf16 for models that do not fit in memory in fp32.")  # fmt: skip
@verify_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def command(
    run: str,
    out: Path,
    base: str | None,
    dtype: str,
    check: bool,
    check_dtype: str,
    verify: Verify | None,
    as_json: bool,
) -> None:
    """Write a model folder that needs no adapter, for vLLM, llama.cpp, Ollama or transformers.

    \b
    qlora-fast merge runs/base -o merged/base
    qlora-fast merge runs/base/best -o merged/best --dtype fp32

    Each weight is computed in fp32 and written in the precision of the base model, one tensor in memory at a time. Then
    base + adapter and the merged model are run on the same prompts; if their logits differ by more than rounding, or if the
    adapter's change would be rounded away, nothing is written. The folder has the chat template and stop tokens of the
    training, a Modelfile, and a README with the commands to serve it.
    """
    with progress.shown(waiting=f"loading {run}") as tick:
        from qlora_fast.merge.merge import Options, merge_run

        options = Options(None if dtype == "auto" else dtype, check_dtype if check else None, base, verify)
        merged = merge_run(Path(run), out, options, lambda done, of: tick("merging", done, of))
    if as_json:
        console.out_json({"folder": str(merged.folder), **merged.report, "commands": merged.commands})
    else:
        _show(merged)


def _show(merged: Merged) -> None:
    weights, check = merged.report["weights"], merged.report["check"]
    lines = [
        ("merged", f"{merged.folder}  ({merged.report['base_model']}, {merged.report['dtype']})"),
        (
            "weights",
            f"{weights['moved']:,} of {weights['weights']:,} changed by the adapter, {weights['changed']:,} after rounding "
            f"(rounding error: {weights['rounding']:.1%} of the change in norm)",
        ),
    ]
    if check:
        bound = f" (bound {check['bound']:.1e})"
        logits, kl = (bound, "") if check["exact"] else ("", bound)
        lines += [
            (
                "check",
                f"logits differ by at most {check['max_difference']:.2e}{logits}, the largest is {check['largest_logit']:.1f}; "
                f"the same most likely token at {check['same_top']:.1%} of {check['positions']} positions",
            ),
            (
                "",
                f"KL {check['kl_mean']:.2e} nats on average{kl}, {check['kl_max']:.2e} at most; "
                f"of the adapter itself {check['kl_update']:.2e}",
            ),
        ]
    for server, words in merged.commands.items():
        lines += [(server if i == 0 else "", word) for i, word in enumerate(words)]
    console.rows_out(lines)
    for note in merged.notes:
        console.note(f"note: {note}")
