"""Text from data, files, models and file names, made safe for a terminal.

A terminal obeys control characters: an escape sequence in a file name could hide a line, change the title, or type into the
shell. Every character that is not printed as itself is shown as its escape (``\\x1b``); a line break within a line as
``\\n``, so that no name can add a line that looks like a message of this program.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069"  # writing direction: shows text in another order than it has
    "\u2028\u2029\ufeff"  # line and paragraph separators, byte order mark
    "\ud800-\udfff]"  # bytes of a name that are not UTF-8
)


def text(value: str) -> str:
    """Without control characters; line feeds and tabs stay: for documents and for answers of a model."""
    return _CONTROL.sub(_escaped, value)


def line(value: str) -> str:
    """On one line. Blank lines before and after it stay: they set messages apart."""
    inner = value.strip("\n")
    before, _, after = value.partition(inner) if inner else (value, "", "")
    return before + text(inner).replace("\n", "\\n") + after


def message(value: str) -> str:
    """An error: its lines after the first are indented, and no name in backticks breaks a line."""
    named = re.sub("`[^`]*`", lambda found: found[0].replace("\n", "\\n"), value)
    return re.sub("\n(?!  )", "\n  ", text(named))


def json(document: str) -> str:
    """A JSON document; what is escaped can only be inside its strings."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # the byte that stood in the name
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
