"""``qlora-fast config``: the settings, and how a config file is understood."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from qlora_fast.cli import console
from qlora_fast.cli.arguments import Place, complete_settings


@click.group("config", short_help="Settings: list, explain, check.")
def command() -> None:
    """Look up settings, and show how a config file is understood.

    \b
    qlora-fast config keys lora_rank          one setting: default, limits, effect
    qlora-fast config explain lf.yaml         how each key of a LLaMA-Factory file is understood
    qlora-fast config show my.yaml seed=1     the complete config, with defaults
    qlora-fast config example base            an example to start from
    """


@command.command("keys")
@click.argument("name", required=False, shell_complete=lambda *a: _key_names(a[2]))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on stdout.")
def keys(name: str | None, as_json: bool) -> None:
    """List all settings, or describe one: default, unit, limits, effect."""
    from qlora_fast.config.keys import KEYS

    if name is not None and name not in KEYS:
        _foreign(name)
        return
    described = [_describe(n) for n in ([name] if name else KEYS)]
    if as_json:
        console.out_json(described[0] if name else described)
    elif name:
        console.rows_out([(k.replace("_", " "), str(v)) for k, v in described[0].items() if v not in ("", None)])
    else:
        _list()


@command.command("explain")
@click.argument("file", type=Place())
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on stdout.")
def explain(file: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show how every key of FILE is understood: used, translated, ignored or refused, and why.

    FILE may be LLaMA-Factory's YAML for supervised fine-tuning with LoRA: it loads unchanged. Exit status 1 if a key in it
    is not supported.

    \b
    qlora-fast config explain examples/train_lora/qwen3_lora_sft.yaml
    """
    from qlora_fast.config import examine
    from qlora_fast.config.explain import report

    found = {"file": file, **report(examine(file, settings))}
    if as_json:
        console.out_json(found)
    else:
        _show(found)
    if not found["loads"]:
        raise click.exceptions.Exit(1)


@command.command("show")
@click.argument("file", type=Place())
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE...]", shell_complete=complete_settings)
def show(file: str, settings: tuple[str, ...]) -> None:
    """Print FILE with all defaults: what the run will have as its config.yaml."""
    from qlora_fast.config import dump, load

    console.out_document(dump(load(file, settings).config).rstrip())


@command.command("example")
@click.argument("name", required=False, shell_complete=lambda *a: _example_names(a[2]))
def example(name: str | None) -> None:
    """List the example configs of the package, or print one to start from.

    \b
    qlora-fast config example
    qlora-fast config example gpu-8gb > my.yaml
    """
    from qlora_fast.config import example as examples

    if name is not None:
        console.out_piece(examples.text(name))
        return
    console.rows_out([(name, examples.about(path)) for name, path in examples.names().items()])
    console.note("\nnext: qlora-fast config example NAME > my.yaml; or `qlora-fast init data.json`, made for your data")


@command.command("schema")
def schema() -> None:
    """Print the settings as a JSON schema, for editors (docs/config.schema.json)."""
    from qlora_fast.config.schema import schema as made

    console.out_json(made())


@command.command("reference")
def reference() -> None:
    """Print the settings as a Markdown page (docs/configuration.md)."""
    from qlora_fast.config.reference import page

    console.out_document(page().rstrip())


def _key_names(incomplete: str) -> list[str]:
    from qlora_fast.config.keys import KEYS

    return [name for name in KEYS if name.startswith(incomplete)]


def _example_names(incomplete: str) -> list[str]:
    from qlora_fast.config.example import names

    return [name for name in names() if name.startswith(incomplete)]


def _describe(name: str) -> dict[str, Any]:
    from qlora_fast.config.convert import limits
    from qlora_fast.config.explain import text
    from qlora_fast.config.keys import SECTIONS, TYPES, about, default
    from qlora_fast.config.reference import elsewhere, kind

    known = about(name)
    section = next(title for title, part in SECTIONS.items() if name in {f.name for f in fields(part)})
    return {
        "key": name,
        "section": section,
        "type": kind(name),
        "default": text(default(name)),
        "unit": known.unit,
        "must": limits(TYPES[name]),
        "effect": known.help,
        "in_LLaMA-Factory": elsewhere(name),
    }


def _list() -> None:
    from qlora_fast.config.explain import text
    from qlora_fast.config.keys import KEYS, SECTIONS, about, default

    width, defaults = max(map(len, KEYS)), max(len(text(default(name))) for name in KEYS)
    for title, section in SECTIONS.items():
        console.out(f"{title}: {(section.__doc__ or '').splitlines()[0]}")
        for field in fields(section):
            unit = f" [{about(field.name).unit}]" if about(field.name).unit else ""
            console.out(
                f"  {field.name:<{width}}  {text(default(field.name)):<{defaults}}  {about(field.name).help}{unit}"
            )
        console.out()


def _foreign(name: str) -> None:
    """A name that is not a setting: how a config file with it is understood."""
    from qlora_fast.config.foreign import RENAMED, RULES, foreign_key
    from qlora_fast.config.keys import KEYS

    if name in RULES or foreign_key(name, "true"):
        translation = foreign_key(name, "true")
        reason = translation.reason if translation else RULES[name].reason
        becomes = f"; becomes {translation.key}" if translation and translation.key else ""
        console.out(f"{name} is LLaMA-Factory's, not a setting here: {reason}{becomes}")
        return
    near = [RENAMED[name]] if name in RENAMED else get_close_matches(name, KEYS, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; `qlora-fast config keys` lists them"
    raise click.UsageError(f"no setting `{name}`{hint}")


def _show(found: dict[str, Any]) -> None:
    file, counts = found["file"], found["counts"]
    counted = ", ".join(f"{count} {fate}" for fate, count in counts.items() if count)
    console.out(f"{file} {'loads' if found['loads'] else 'does not load'}: {counted or 'empty'}\n")
    rows = [_row(verdict, file) for fate in counts for verdict in found["keys"] if verdict["fate"] == fate]
    said = max((len(r[1]) for r in rows), default=0)
    place = max((len(r[2]) for r in rows), default=0)
    for fate, words, where, reason in rows:
        console.out(f"{fate:<10}  {words:<{said}}  {where:<{place}}  {reason}".rstrip())
    if found["other_defaults"]:
        console.out("\nnot set, with another default in LLaMA-Factory:")
        for other in found["other_defaults"]:
            console.out(f"  {other['key']}: {other['here']} here, {other['llamafactory']} in LLaMA-Factory")
    if found["problems"]:
        console.out("\nproblems:")
        for problem in found["problems"]:
            console.out(f"  {problem}")
    elif Path(file).is_file():
        console.next_step("plan", file)


def _row(verdict: dict[str, Any], file: str) -> tuple[str, str, str, str]:
    from qlora_fast.config.explain import text

    value = text(verdict["value"])
    said = f"{verdict['key']}: {value if len(value) <= 40 else value[:39] + '…'}"
    if verdict["becomes"]:
        said += " → " + ", ".join(f"{k}: {v}" for k, v in verdict["becomes"].items())
    where = verdict["place"].removeprefix(file).removeprefix(":")
    return verdict["fate"], said, f"line {where}" if where.isdigit() else where, verdict["reason"]
