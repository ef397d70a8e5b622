"""The hostile data corpus: files that are strange, broken, huge or not files at all, each with the outcome that it must have.

Nothing is stored: every file is made when it is needed. :data:`CORPUS` is the one table; :class:`Entry` says what its words mean.
"""

from __future__ import annotations

from reliability.corpus import archives, large, parquet, places, rows, text
from reliability.corpus.entry import Entry

CORPUS: tuple[Entry, ...] = (
    *text.ENTRIES,
    *rows.ENTRIES,
    *large.ENTRIES,
    *archives.ENTRIES,
    *parquet.ENTRIES,
    *places.ENTRIES,
)
"""Every file of the corpus; the names are unique."""
