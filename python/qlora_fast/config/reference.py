"""docs/configuration.md, made from the table of settings."""

from __future__ import annotations

from dataclasses import fields

from qlora_fast.config.convert import bare, limits
from qlora_fast.config.explain import text
from qlora_fast.config.keys import SECTIONS, TYPES, about, default

_HEAD = """# Configuration

Every setting, its default, unit and effect. This page is made by `make docs` from the one table that also reads the files
(`python/qlora_fast/config/keys/`); `qlora-fast config keys` shows the same at the terminal, `qlora-fast config keys NAME` one
of them. [config.schema.json](config.schema.json) lets an editor complete and check a config: put its path on the first line of yours,

    # yaml-language-server: $schema=docs/config.schema.json

A config is a flat YAML file. Any setting can also be given as `key=value` after it on the command line, which overrides the
file; `extends: other.yaml` takes every setting that the file does not have from another one. Numbers may be written as `5e-5`,
lists as `a,b` or `[a, b]`. An unknown key, a key that is set twice, and settings of one file that exclude each other are errors,
all reported at once. Of two exclusive settings, one in a file and one on the command line (or in a file that extends it), the
latter is taken. In paths, `~` and environment variables such as `$HOME` are expanded.

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
    must = limits(TYPES[name])
    unit = f" [{known.unit}]" if known.unit else ""
    effect = f"{known.help[:1].upper()}{known.help[1:]}.{f' Must {must}.' if must else ''} *{kind(name)}{unit}*"
    return f"| `{name}` | `{text(default(name))}` | {_cell(effect)} | {_cell(elsewhere(name))} |\n"


def kind(name: str) -> str:
    """The type of a key in words; a choice is spelled out."""
    return bare(TYPES[name]).removeprefix("a ")


def elsewhere(name: str) -> str:
    """What LLaMA-Factory calls it, and how it differs there."""
    known = about(name)
    if known.theirs is None:
        return "not in LLaMA-Factory"
    parts = [
        f"`{known.theirs}`" if known.theirs else "",
        f"default {known.there}" if known.there else "",
        known.differs,
        f"here not: {known.lacks}" if known.lacks else "",
    ]
    return "; ".join(p for p in parts if p) or "the same"


def _cell(content: str) -> str:
    return content.replace("|", "\\|").replace("{{", "{ {").replace("}}", "} }")
