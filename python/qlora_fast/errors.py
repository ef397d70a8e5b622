"""The exceptions of qlora-fast, defined once, here; the Rust core raises these same classes.

Every message names the thing and the place; how to fix it is the ``hint``.

>>> try:
...     qlora_fast.open_prepared("no/such/folder")
... except qlora_fast.QloraFastError as error:
...     print(type(error).__name__, "|", error.message, "|", error.hint)
ArtifactError | `no/such/folder` is not a prepared dataset: it has no manifest.json | make one with `qlora-fast prep DATA --out DIR`
"""

from __future__ import annotations

from pathlib import Path


class QloraFastError(Exception):
    """Base of every error that a user can cause; the command line prints it without a traceback and exits with status 1.

    Attributes:
        message: what is wrong, and where: one sentence, or a line for each problem.
        hint: how to fix it; None if that is obvious or unknown.
    """

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
    """One or more settings are wrong; all problems are reported together, a line each."""


class TokenizerError(QloraFastError):
    """The tokenizer or the chat template cannot be used, or does not belong to the model."""


class ArtifactError(QloraFastError):
    """A prepared dataset, run, checkpoint, adapter or model is missing, damaged, or was made by another program."""


class StorageError(ArtifactError):
    """A file could not be written: a full or read-only file system, a quota, too many open files."""


class TrainingError(QloraFastError):
    """Training cannot continue: the loss is not finite, a self-check failed, memory does not suffice."""


class OutOfMemoryError(TrainingError):
    """A row does not fit into memory."""


class PeerGone(QloraFastError):  # noqa: N818  whether it is an error is decided by its handler
    """Another process of a distributed run has ended; :mod:`qlora_fast.train.joining` finds out which and reports it."""

    def __init__(self, message: str = "another process of the run has ended") -> None:
        super().__init__(message)


class PeerError(PeerGone):
    """Another process of a distributed run failed and already reported its error: exit with its status, print nothing."""


_OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the host or of the device ran out: torch and safetensors have no class of error for all of it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether it is the memory of a GPU: torch.OutOfMemoryError is of devices alone, the host's is another error."""
    return type(error).__name__ == "OutOfMemoryError" or (is_out_of_memory(error) and str(error).startswith("CUDA"))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class Interrupted(Exception):  # noqa: N818  a requested end is not an error
    """A signal (Ctrl-C, SIGTERM) ended the run after an optimizer step; a checkpoint was written to resume from."""
