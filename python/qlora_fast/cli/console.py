"""The only module that prints. stdout carries what was asked for; everything else goes to stderr.

Whatever is printed passes :mod:`~qlora_fast.cli.escape`: no control character of a file, a name or a model reaches a terminal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qlora_fast.cli import escape

if TYPE_CHECKING:
    import click
    from rich.console import Console as RichConsole

    from qlora_fast.errors import QloraFastError

MOST_INPUT = 16 * 2**20
"""Bytes that are read from stdin as questions: an endless pipe must not fill the memory."""


def on_terminal() -> bool:
    """Whether stderr is a terminal: only there a progress bar makes sense."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def rich(*, stderr: bool = True) -> RichConsole:
    """rich's console on stderr or stdout."""
    from rich.console import Console  # 60 ms to import: not for --help

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def out(text: str = "") -> None:
    """One line of the answer to the command, on stdout."""
    print(escape.line(text))


def out_document(text: str) -> None:
    """An answer of several lines, on stdout."""
    print(escape.text(text))


def out_piece(text: str) -> None:
    """A part of an answer, flushed at once: for text that is being generated."""
    print(escape.text(text), end="", flush=True)


def out_json(value: Any) -> None:
    """The answer as one JSON document, on stdout."""
    print(escape.json(json.dumps(value, ensure_ascii=False, indent=2, default=str)))


def out_markup_line(text: str) -> None:
    """One line of the answer with rich markup."""
    rich(stderr=False).print(escape.line(text))


def out_markup(text: str) -> None:
    """An answer of several lines with rich markup: coloured on a terminal, plain elsewhere."""
    rich(stderr=False).print(escape.text(text))


def note(text: str) -> None:
    """One line on stderr, for the user and not for scripts. A full disk or a closed pipe behind stderr ends no run."""
    with contextlib.suppress(OSError):
        print(escape.line(text), file=sys.stderr, flush=True)


def input_is_terminal() -> bool:
    """Whether stdin is a keyboard: piped input is data."""
    return sys.stdin.isatty()


def read_input() -> str:
    """All of stdin, as text.

    Raises:
        DataError: it is longer than ``MOST_INPUT``.
    """
    from qlora_fast.errors import DataError

    read = sys.stdin.buffer.read(MOST_INPUT + 1)
    if len(read) > MOST_INPUT:
        raise DataError(f"stdin holds more than {MOST_INPUT >> 20} MiB", hint="give the questions in smaller files")
    return read.decode("utf-8", errors="replace")


def ask(prompt: str) -> str:
    """A line from the keyboard, with the terminal's own editing and history.

    Raises:
        EOFError: Ctrl-D.
    """

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() edits lines with it once it is loaded
    if sys.stdout.isatty():
        return input(escape.line(prompt))
    # stdout is a file or a pipe: the prompt does not belong there.
    print(escape.line(prompt), end="", file=sys.stderr, flush=True)
    return input()


def next_step(command: str, *words: str | os.PathLike[str]) -> None:
    """The command to type next, on stderr; words that a shell would take apart are quoted."""
    note(f"\nnext: qlora-fast {command} {shlex.join(os.fspath(word) for word in words)}")


def warn(text: str) -> None:
    """A warning, on stderr."""
    rich().print(f"[yellow]warning:[/yellow] {without_markup(escape.line(text))}")


def fail(error: QloraFastError | OSError) -> None:
    """An error and its hint, without a traceback: also where there is no descriptor or memory left to load rich with."""
    message, hint = (
        escape.message(_text(error)),
        getattr(error, "hint", None) or _SYSTEM_HINTS.get(getattr(error, "errno", 0)),
    )
    try:
        console = rich()
        console.print(f"[bold red]error:[/bold red] {without_markup(message)}")
        if hint:
            console.print(f"\n[cyan]hint:[/cyan] {without_markup(escape.message(hint))}")
    except (OSError, ImportError, MemoryError):
        note(f"error: {message}" + (f" (hint: {hint})" if hint else ""))


_SPACE = "free some space there, or give a folder on another disk"
_SYSTEM_HINTS = {
    errno.EROFS: "give a folder that you may write to: prepared_dir=… for prepared data, output_dir=… for a run",
    errno.EACCES: "look at its owner and permissions, or give another folder",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
}
"""What to do about errors of the system that reach the command line as they are."""


def _text(error: QloraFastError | OSError) -> str:
    """What an error says; of the system's, the file and the reason without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"`{os.fsdecode(error.filename)}`: {error.strerror}"
    return str(error) or type(error).__name__


def fail_usage(error: click.ClickException) -> None:
    """What is wrong with the command line, with the usage of the command."""
    from click.exceptions import NoArgsIsHelpError

    if isinstance(error, NoArgsIsHelpError):  # the command or its group alone: its help is the answer, and the status 2
        print(error.format_message(), file=sys.stderr, flush=True)
        return
    context = getattr(error, "ctx", None)
    if context is not None:
        print(context.get_usage(), file=sys.stderr)
        print(f"Try '{context.command_path} --help' for help.\n", file=sys.stderr)
    message = error.format_message() + _setting_as_option(error)
    print(f"Error: {escape.message(message)}", file=sys.stderr, flush=True)


def _setting_as_option(error: click.ClickException) -> str:
    """A hint where a setting was given as an option, as other programs take it."""
    from click.exceptions import NoSuchOption

    if not isinstance(error, NoSuchOption):
        return ""
    from qlora_fast.config.keys import KEYS

    name = error.option_name.lstrip("-").replace("-", "_")
    return f" A setting is given without dashes: {name}=VALUE" if name in KEYS else ""


def rows_out(pairs: list[tuple[str, str]]) -> None:
    """Two aligned columns on stdout: names and what belongs to each."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        out(f"{name:<{width}}  {text}".strip("\n").rstrip())


def table_out(rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, heading first; columns of figures are aligned on the right."""
    rows = [[escape.line(cell) for cell in row] for row in rows]
    right = [all(c[:1].isdigit() or c in ("", "–") for c in column[1:]) for column in zip(*rows, strict=True)]
    if sys.stdout.isatty():
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for name, figures in zip(rows[0], right, strict=True):
            table.add_column(without_markup(name), justify="right" if figures else "left", no_wrap=True)
        for row in rows[1:]:
            table.add_row(*map(without_markup, row))
        rich(stderr=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        out("  ".join(f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in cells).rstrip())


def log_to_stderr(quiet: bool) -> None:
    """Print the package's own log lines as notes, and not those of other libraries."""
    handler = _Notes()
    root = logging.getLogger("qlora_fast")
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    root.propagate = False


class _Notes(logging.Handler):
    """Log lines as notes: to what is stderr at that moment, which a progress bar replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def without_markup(text: str) -> str:
    """Text for rich, in which nothing is markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)
