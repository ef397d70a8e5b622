"""Arguments of a command line: files and ``key=value`` settings, separated and completed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


class Place(click.Path):
    """A file or a folder, or the name of a model: ``~`` and environment variables are expanded.

    Of every option and argument that can name a path. A word ``key=value`` stays as it is: the config expands it.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from qlora_fast.config.paths import expanded
        from qlora_fast.errors import ConfigError

        if isinstance(value, str) and not _is_setting(value):
            value, problem = expanded(value)
            if problem:
                raise ConfigError(f"`{value}` {problem}")
        return super().convert(value, param, ctx)


def _is_setting(word: str) -> bool:
    """Whether a word is ``key=value``. A file whose name looks like that is a file if it exists."""
    # A text that no file can be called, such as one that is too long, is none; Path.exists raises there.
    return _SETTING.match(word) is not None and not os.path.exists(word)


def sort_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate files from settings."""
    files: list[str] = []
    settings: list[str] = []
    for word in words:
        (settings if _is_setting(word) else files).append(word)
    return files, settings


verify_option = click.option(
    "--verify",
    type=click.Choice(["full", "quick", "off"]),
    help="What is compared with MANIFEST.json: every byte, sizes alone, or nothing; default: what the run says, or full.",
)
"""Of commands that read an adapter or a merged model and take no settings."""


def complete_settings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: names of settings, then their values; files first where the arguments may be files."""
    from qlora_fast.config.keys import KEYS, about

    before = [str(word) for word in ctx.params.get(param.name or "") or ()]
    # bash ends a word at `=`: `packing=ex` arrives as three words, of which the last is replaced.
    if before[-1:] == ["="] and before[-2:-1]:
        return _values(before[-2], incomplete, "")
    if not incomplete and before[-1:] and before[-1] in KEYS:
        return _values(before[-1], "", "")
    name, equals, value = incomplete.partition("=")
    if equals:
        return _values(name, value, f"{name}=")
    names = [CompletionItem(f"{key}=", help=about(key).help) for key in KEYS if key.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *names] if param.name == "words" else names


def _values(name: str, incomplete: str, prefix: str) -> list[CompletionItem]:
    from qlora_fast.config.convert import choices
    from qlora_fast.config.keys import KEYS, TYPES

    if name not in KEYS:
        return []
    offered = choices(TYPES[name]) or (("true", "false") if _is_switch(TYPES[name]) else ())
    found = [CompletionItem(f"{prefix}{c}") for c in map(str, offered) if c.startswith(incomplete)]
    # Any other value may be a file. Only bash completes it separately from its key.
    return found or ([CompletionItem(incomplete, type="file")] if not prefix else [])


def _is_switch(kind: Any) -> bool:
    """Whether true and false are among the values of a type."""
    return kind is bool or any(map(_is_switch, get_args(kind)))
