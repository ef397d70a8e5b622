"""The typed face of the Rust core (`make lint` checks it against the built module)."""

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BUILD_PROFILE",
    "ChatEncoder",
    "EpochPlan",
    "Tokenizer",
    "__version__",
    "compare_templates",
    "detect_template",
    "fingerprint",
    "look",
    "merge",
    "mix",
    "pack",
    "packing_lower_bound",
    "padding",
    "plan_epoch",
    "prepare",
    "prepare_share",
    "render_jinja",
    "report_names",
    "review",
    "split",
    "template_keys",
    "template_problems",
    "templates",
    "written_template",
]

__version__: Final[str]
BUILD_PROFILE: Final[Literal["release", "debug"]]

def prepare(options: str, progress: Callable[[str, int, int], object] | None = None) -> str: ...
def prepare_share(
    options: str, number: int, count: int, progress: Callable[[str, int, int], object] | None = None
) -> str: ...
def merge(options: str, progress: Callable[[str, int, int], object] | None = None) -> str: ...
def fingerprint(options: str) -> str: ...
def look(
    options: str, file: int, rows: Sequence[int], progress: Callable[[str, int, int], object] | None = None
) -> str: ...
def templates() -> list[str]:
    """The names of the built-in chat templates, in the order in which ``template: auto`` tries them."""

def template_keys() -> list[str]:
    """The keys that a written template may have."""

def written_template(name: str) -> str | None:
    """A built-in template as it is written.

    Args:
        name: one of :func:`templates`.

    Returns:
        Its keys as a JSON object; None if there is no such template.
    """

def template_problems(template: str) -> list[tuple[str, str]]:
    """What is wrong with a written template.

    Args:
        template: its keys as a JSON object.

    Returns:
        (key, problem) pairs, empty for a sound template; the key is empty where no single key is at fault.
    """

def compare_templates(
    template: str, chat_template: str, bos_token: str | None, eos_token: str | None, tokenizer: str
) -> list[str]:
    """Render every probe conversation by a template and by a model's own chat template.

    Args:
        template: a built-in template's name, or a written template as a JSON object.
        chat_template: the model's own template, Jinja.
        bos_token: the tokenizer's beginning-of-sequence token, None if it has none.
        eos_token: the tokenizer's end-of-sequence token, None if it has none.
        tokenizer: path of a ``tokenizer.json``; its control tokens are looked for in what a Jinja template prints.

    Returns:
        A JSON object for each probe: ``probe``, ``agrees``, ``refused``, ``ours``, ``own``, ``error``, ``thinking`` and
        ``conversation``.

    Raises:
        TokenizerError: one of the templates cannot be used.
        OSError: the tokenizer cannot be read.
    """

def detect_template(chat_template: str, bos_token: str | None, eos_token: str | None) -> str | None:
    """The built-in template that prints exactly what a model's own chat template prints, on all probe conversations.

    Args:
        chat_template: the model's own template, Jinja.
        bos_token: the tokenizer's beginning-of-sequence token, None if it has none.
        eos_token: the tokenizer's end-of-sequence token, None if it has none.

    Returns:
        Its name; None if no built-in template prints the same.
    """

def render_jinja(
    source: str, variables: str
) -> tuple[Literal["text", "syntax", "raised", "failed", "unsupported", "budget"], str]:
    """A Jinja template rendered with variables (a JSON object): the text, or what went wrong and why."""

@final
class Tokenizer:
    """A ``tokenizer.json`` for plain text: text never gives a control token, whatever it says.

    Args:
        path: the ``tokenizer.json``.
        engine: auto, native, fastokens or tokenizers; all give equal ids.
        cache: folder in which compiled tokenizers are kept; None: it is compiled each time.

    Raises:
        TokenizerError: it cannot be used.
        ConfigError: there is no such engine.
        OSError: it cannot be read.
    """

    def __new__(
        cls, path: str | PathLike[str], *, engine: str = "auto", cache: str | PathLike[str] | None = None
    ) -> Tokenizer: ...
    @property
    def engine(self) -> str:
        """The engine that runs: native, fastokens or tokenizers."""

    @property
    def reason(self) -> str | None:
        """Why a slower engine runs, if one does; None where the native one runs or another was asked for."""

    def encode_batch(self, texts: Sequence[str], *, threads: int = 0) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode many texts.

        Args:
            texts: the texts.
            threads: how many threads; 0: one for each core.

        Returns:
            All ids concatenated, uint32, (tokens,), and the offsets of the texts in them, int64, (texts + 1,): text ``i`` has
            ``ids[offsets[i]:offsets[i + 1]]``.

        Raises:
            TokenizerError: the engine refuses a text.
            ConfigError: the threads cannot be started.
        """

@final
class ChatEncoder:
    """A chat template bound to a tokenizer: the same rendering and encoding as for the training data.

    Args:
        tokenizer: path of a ``tokenizer.json``.
        template: a built-in template's name, or a written template as a JSON object (``{"jinja": "…"}``: the model's own).
        engine: auto, native, fastokens or tokenizers; all give equal ids.
        default_system: the system prompt of conversations that have none.
        bos_token: the tokenizer's beginning-of-sequence token.
        eos_token: the tokenizer's end-of-sequence token.
        cache: folder in which compiled tokenizers are kept; None: it is compiled each time.

    Raises:
        TokenizerError: the tokenizer or the template cannot be used, or they do not fit each other.
        ConfigError: there is no such engine.
        OSError: the tokenizer cannot be read.
    """

    def __new__(
        cls,
        tokenizer: str | PathLike[str],
        template: str,
        *,
        engine: str = "auto",
        default_system: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        cache: str | PathLike[str] | None = None,
    ) -> ChatEncoder: ...
    @property
    def engine(self) -> str:
        """The engine that runs: native, fastokens or tokenizers."""

    def encode(
        self, conversation: str, *, add_generation_prompt: bool = False, enable_thinking: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Render and encode one conversation.

        Args:
            conversation: JSON, ``{"messages": [{"role": …, "content": …}, …]}``.
            add_generation_prompt: end with the beginning of an answer, for the model to complete; no token is supervised then.
            enable_thinking: with ``add_generation_prompt``, for templates that can switch thoughts on and off.

        Returns:
            Token ids, int32, (tokens,), and the supervised spans, int32, (spans, 2): half-open ranges of token positions,
            ascending and disjoint.

        Raises:
            DataError: it is no conversation, or the template refuses it; ``reason`` says why.
        """

    def segments(
        self, conversation: str, *, add_generation_prompt: bool = False, enable_thinking: bool = False
    ) -> list[tuple[str, str, bool]]:
        """Render one conversation without encoding it.

        Args:
            conversation: as for :meth:`encode`.
            add_generation_prompt: as for :meth:`encode`.
            enable_thinking: as for :meth:`encode`.

        Returns:
            (kind, text, supervised) of each segment. The kind is ``control`` (one control token), ``marker`` (a tag such as
            ``<think>``: one token where the tokenizer has it) or ``text``.

        Raises:
            DataError: it is no conversation, or the template refuses it; ``reason`` says why.
        """

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text: no control token is ever among them, whatever the text says.

        Raises:
            DataError: the engine refuses the text.
        """

    def stop_ids(self) -> list[int]:
        """The ids that end an answer, ascending."""

@final
class EpochPlan:
    """The optimizer steps of one epoch, as columns. Every sample is in exactly one row; a row is one forward pass.

    ``len(plan)`` is the number of rows, ``plan[i]`` is ``plan.row(i)``, and iterating gives the rows in order.
    """

    @property
    def sample_ids(self) -> NDArray[np.int64]:
        """Sample indices, row after row: int64, (samples,)."""

    @property
    def row_offsets(self) -> NDArray[np.int64]:
        """Row ``r`` is ``sample_ids[row_offsets[r]:row_offsets[r + 1]]``: int64, (rows + 1,). Empty rows fill an optimizer step up to
        a multiple of the number of devices.
        """

    @property
    def update_offsets(self) -> NDArray[np.int64]:
        """Optimizer step ``u`` is the rows from ``update_offsets[u]`` up to ``update_offsets[u + 1]``: int64, (optimizer steps + 1,)."""

    @property
    def supervised(self) -> NDArray[np.int64]:
        """Supervised tokens of each optimizer step, by which its loss is divided: int64, (optimizer steps,)."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of each optimizer step: int64, (optimizer steps,)."""

    @property
    def digest(self) -> str:
        """A hash of the whole plan, 64 hex digits: equal plans have equal digests on every machine."""

    def row(self, index: int) -> NDArray[np.int64]:
        """The samples of one row.

        Args:
            index: the row; negative ones count from the end.

        Returns:
            Their indices, int64, (samples of the row,): a view of ``sample_ids``.

        Raises:
            IndexError: there is no such row.
        """

    def rows(self) -> Iterator[NDArray[np.int64]]:
        """The samples of each row, in order: an iterator over :meth:`row`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> NDArray[np.int64]: ...

def plan_epoch(
    lengths: NDArray[np.uint32],
    supervised: NDArray[np.uint32],
    *,
    packing: str,
    samples_per_update: int,
    micro_batch_size: int,
    max_tokens_per_row: int,
    rows_per_update: int,
    world_size: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Plan the optimizer steps of one epoch: a pure function of its arguments, on every machine and with any threads.

    Args:
        lengths: tokens of each sample, uint32, (samples,), none of them 0.
        supervised: supervised tokens of each sample, uint32, (samples,).
        packing: exact, dense, bucketed or none.
        samples_per_update: samples of an optimizer step over all devices (not for dense).
        micro_batch_size: samples of a padded row (bucketed, none).
        max_tokens_per_row: tokens of a packed row (exact, dense); a longer sample has a row of its own.
        rows_per_update: rows of an optimizer step over all devices (dense).
        world_size: devices that share the rows: row ``j`` of an optimizer step belongs to device ``j % world_size``.
        seed: the run's seed.
        epoch: number of the epoch, from 0.

    Raises:
        DataError: the columns are not those of one sound dataset.
        ConfigError: a setting is out of its limits.
    """

def split(
    rows: int, val_size: float, seed: int, groups: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold samples out for evaluation, at random.

    Args:
        rows: how many samples there are.
        val_size: below 1 a share, rounded up; from 1 on a count; 0 for none.
        seed: of the draw.
        groups: int64, (rows,): samples with equal entries stay on one side.

    Returns:
        The samples to train on and those to evaluate on: int64, each ascending.

    Raises:
        ConfigError: ``val_size`` is neither a share nor a count, or leaves nothing to train on.
        DataError: there are more samples than 32 bits can number.
    """

def mix(sizes: list[int], weights: list[float], strategy: str, seed: int) -> list[NDArray[np.int64]]:
    """Which samples of several datasets an epoch takes.

    Args:
        sizes: samples of each dataset.
        weights: share of each dataset in the draws, all above 0; empty: the datasets take turns.
        strategy: concat (everything once), interleave_under (until the first dataset is used up) or interleave_over (until
            every dataset is used up; smaller ones repeat).
        seed: of the draws.

    Returns:
        For each dataset the indices that are taken, int64, ascending; repeated where a dataset repeats.

    Raises:
        ConfigError: there is no such strategy, or the weights do not fit the datasets.
        DataError: there are more samples than 32 bits can number.
    """

def pack(lengths: NDArray[np.uint32], capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pack samples into few rows by best-fit decreasing.

    Args:
        lengths: tokens of each sample, uint32, (samples,), none of them 0.
        capacity: tokens of a row; a longer sample has a row of its own.

    Returns:
        Sample indices row after row, int64, (samples,), and the offsets of the rows in them, int64, (rows + 1,).

    Raises:
        DataError: a sample has no tokens, or there are too many samples.
        ConfigError: the capacity is 0 or too large.
    """

def packing_lower_bound(lengths: NDArray[np.uint32], capacity: int) -> int:
    """A number of rows below which no packing can come (the bound L2 of Martello and Toth).

    Args:
        lengths: tokens of each sample, uint32, (samples,), none of them 0.
        capacity: tokens of a row; a longer sample counts as a full row.

    Raises:
        DataError: a sample has no tokens, or there are too many samples.
        ConfigError: the capacity is 0.
    """

def padding(lengths: NDArray[np.uint32], supervised: NDArray[np.uint32], options: str) -> str: ...
def review(folder: str | PathLike[str], options: str) -> str: ...
def report_names() -> tuple[list[str], list[str], list[str]]: ...
