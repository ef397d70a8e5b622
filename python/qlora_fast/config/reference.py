"""docs/configuration.md, made from the table of settings."""

from __future__ import annotations

from dataclasses import fields

from qlora_fast.config.convert import words
from qlora_fast.config.explain import text
from qlora_fast.config.keys import SECTIONS, about, default
from qlora_fast.config.load import TYPES

_HEAD = """# Configuration

Every setting, its default, unit and effect. This page is made by `make docs` from the one table that also reads the files
(`python/qlora_fast/config/keys/`); `qlora-fast config keys` shows the same at the terminal, `qlora-fast config keys NAME` one
of them. [config.schema.json](config.schema.json) lets an editor complete and check a config: put its path on the first line of yours,

    # yaml-language-server: $schema=docs/config.schema.json

A config is a flat YAML file. Any setting can also be given as `key=value` after it on the command line, which has the last
say; `extends: other.yaml` takes everything that is not said from another file. Numbers may be written as `5e-5`, lists as
`a,b` or `[a, b]`. An unknown key, a key that stands twice, and settings that contradict each other are errors, all shown at once.

The names are LLaMA-Factory's. Where a default is another one there, it stands in the last column, beside anything else that
differs; a file of LLaMA-Factory's loads as it is, and `qlora-fast config explain FILE` says what becomes of each of its keys
([migration.md](migration.md)).
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, section in SECTIONS.items():
        parts += [
            f"\n## {title}\n\n{section.__doc__}\n\n",
            "| key | default | effect | in LLaMA-Factory |\n|---|---|---|---|\n",
        ]
        parts += [row(f.name) for f in fields(section)]
    return "".join(parts)


def row(name: str) -> str:
    known = about(name)
    limit = f" Must {known.limit.words}." if known.limit and not known.limit.words.startswith("hold only") else ""
    unit = f" [{known.unit}]" if known.unit else ""
    effect = f"{known.help[:1].upper()}{known.help[1:]}.{limit} *{kind(name)}{unit}*"
    return f"| `{name}` | `{text(default(name))}` | {_cell(effect)} | {_cell(elsewhere(name))} |\n"


def kind(name: str) -> str:
    """The type of a key in words; a choice is spelled out."""
    limit = about(name).limit
    if limit and limit.words.startswith("hold only"):
        return "list of " + limit.words.removeprefix("hold only ")
    return words(TYPES[name]).removeprefix("a ")


def elsewhere(name: str) -> str:
    """What LLaMA-Factory calls it, and how it differs there."""
    known = about(name)
    if known.theirs is None:
        return "ours alone"
    parts = [
        f"`{known.theirs}`" if known.theirs else "",
        f"default {known.there}" if known.there else "",
        known.differs,
        f"here not: {known.lacks}" if known.lacks else "",
    ]
    return "; ".join(p for p in parts if p) or "the same"


def _cell(content: str) -> str:
    return content.replace("|", "\\|").replace("{{", "{ {").replace("}}", "} }")
