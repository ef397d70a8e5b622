"""The exceptions of qlora-fast, defined once, here; the Rust core raises these same classes.

Every message names the thing, the place and the mend. The mend goes into `hint`.
"""

from __future__ import annotations

from pathlib import Path


class QloraFastError(Exception):
    """Base of every error that a user can cause; the command line shows it without a traceback."""

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        reason: str | None = None,
        path: Path | None = None,
        line: int | None = None,
        column: int | None = None,
        row: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason
        """Why a row of data cannot be used: a name of :data:`qlora_fast.data.drop_reasons.REASONS`."""
        self.path = path
        """The file or folder that the error is about."""
        self.line = line
        """Line in it, from 1; in Parquet the row counted from 1."""
        self.column = column
        """Column of the line, in bytes from 1."""
        self.row = row
        """Record in it, from 0."""

    def __str__(self) -> str:
        return self.message


class DataError(QloraFastError):
    """The training data cannot be read, or nothing of it can be trained on."""


class ConfigError(QloraFastError):
    """One or more settings are wrong; all of them are reported together."""


class TokenizerError(QloraFastError):
    """The tokenizer or the chat template cannot be used, or is not the model's."""


class ArtifactError(QloraFastError):
    """A prepared dataset, run folder or checkpoint is missing, damaged, or somebody else's."""


class TrainingError(QloraFastError):
    """Training had to stop: a loss that is not finite, a failed self-check, too little memory."""


class PeerGone(QloraFastError):  # noqa: N818  what it means is found out later
    """Another process of the run is gone. What to tell the user about it is decided by :mod:`qlora_fast.train.distributed`."""

    def __init__(self, message: str = "another process of the run is gone") -> None:
        super().__init__(message)


class PeerError(PeerGone):
    """Another process of the run has failed, and has told the user: end with its status and say nothing."""


class Interrupted(Exception):  # noqa: N818  it is no error
    """A signal ended the run behind a whole update, and a checkpoint was written."""
