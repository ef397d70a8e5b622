"""``qlora-fast template``: list chat templates, show one, compare one with the model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console
from qlora_fast.cli.arguments import Place

if TYPE_CHECKING:
    from qlora_fast.data.template_check import Difference, Verdict


@click.group("template", short_help="Chat templates: list, show, check.")
def command() -> None:
    """Look at chat templates, and check that one renders as the model's own does.

    \b
    qlora-fast template list
    qlora-fast template show llama3 > my.yaml     to write your own
    qlora-fast template check models/Qwen3-0.6B
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on stdout.")
def list_(as_json: bool) -> None:
    """List the built-in templates."""
    from qlora_fast.data import templates

    written = templates.built_in()
    if as_json:
        console.out_json(written)
        return
    console.rows_out([(t["name"], t.get("about", "")) for t in written])
    console.note("\nor: auto (the one that equals the model's own), jinja (the model's own), or your own YAML file")


@command.command("show")
@click.argument("name", type=Place())
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on stdout.")
def show(name: str, as_json: bool) -> None:
    """Print a built-in template as YAML, the form in which you can write your own."""
    from qlora_fast.data import templates

    written = templates.written(templates.read(name))
    if as_json:
        console.out_json(written)
    else:
        console.out_piece(templates.as_yaml(written))


@command.command("check")
@click.argument("model", type=Place(), default="smollm2-135m-instruct")
@click.option(
    "--template",
    "name",
    metavar="TEMPLATE",
    type=Place(),
    default="auto",
    show_default=True,
    help="A built-in name, a YAML file, or jinja.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON on stdout.")
@click.pass_context
def check(ctx: click.Context, model: str, name: str, as_json: bool) -> None:
    """Render probe conversations with a template and with the chat template of MODEL, and compare every token.

    The probes have a system prompt, several turns, leading and trailing blanks, reasoning, tools, and generation prompts
    with thinking on and off. Exit status 1 if a token differs.

    \b
    qlora-fast template check models/Qwen3-0.6B
    qlora-fast template check models/Llama-3.2-1B-Instruct --template llama3
    qlora-fast template check models/mine --template my.yaml --json
    """
    from dataclasses import asdict

    from qlora_fast.config import of
    from qlora_fast.data.template_check import check_template
    from qlora_fast.data.tokenizer import tokenizer_for

    own, tokenizer = tokenizer_for(of(model_name_or_path=model, template=name))
    verdicts = check_template(own, tokenizer)
    differ = [v for v in verdicts if v.difference is not None]
    if as_json:
        report: dict[str, Any] = {
            "model": model,
            "template": tokenizer.template_name,
            "identical": not differ,
            "fixed_date": FIXED_DATE if own.prints_date else None,
            "probes": [asdict(v) for v in verdicts],
        }
        console.out_json(report)
    else:
        _show(model, name, tokenizer.template_name, verdicts)
        if own.prints_date:
            console.note(f"the model's own template prints the current date; here, as in training, it is {FIXED_DATE}")
    if differ:
        ctx.exit(1)


FIXED_DATE = "26 Jul 2024"


def _show(model: str, asked: str, used: str, verdicts: list[Verdict]) -> None:
    rows = [("model", model), ("template", used if asked == used else f"{used} (from {asked})"), ("", "")]
    for verdict in verdicts:
        if verdict.refused is not None:
            rows.append((verdict.probe, f"refused by the model's own template: {verdict.refused}"))
        elif verdict.difference is None:
            same = f"identical ({verdict.tokens} tokens)" if verdict.tokens else None
            rows.append((verdict.probe, ": ".join(t for t in (same, verdict.note) if t)))
        else:
            rows.append((verdict.probe, verdict.difference.what))
            rows += [("", line) for line in _lines(verdict.difference)]
    console.rows_out(rows)
    compared = [v for v in verdicts if v.refused is None]
    differ = sum(v.difference is not None for v in compared)
    console.out()
    console.out(f"{differ} of {len(compared)} probes differ" if differ else "identical")


def _lines(difference: Difference) -> list[str]:
    return [
        f"{side:<8}{' '.join(f'{i}:{text!r}' for i, text in tokens) or '(the end)'}"
        for side, tokens in (("both", difference.before), ("ours", difference.ours), ("model's", difference.own))
        if tokens or side != "both"
    ]
