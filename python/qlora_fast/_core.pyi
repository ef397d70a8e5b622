"""The typed face of the Rust core (`make lint` checks it against the built module)."""

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, Final, Literal, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray
from typing_extensions import NotRequired

__all__ = [
    "BUILD_PROFILE",
    "FORMAT_VERSION",
    "ChatEncoder",
    "EpochPlan",
    "LengthCounts",
    "PreparedFolder",
    "Tokenizer",
    "__version__",
    "batching_report",
    "compare_templates",
    "detect_template",
    "fingerprint",
    "inspect_rows",
    "length_counts",
    "merge",
    "mix",
    "open_prepared",
    "pack",
    "packing_lower_bound",
    "padding",
    "plan_epoch",
    "prepare",
    "prepare_share",
    "read_manifest",
    "render_jinja",
    "report_names",
    "split",
    "template_keys",
    "template_problems",
    "templates",
    "verify_prepared",
    "written_template",
]

__version__: Final[str]
BUILD_PROFILE: Final[Literal["release", "debug"]]

FORMAT_VERSION: Final[int]
"""Version of the layout of a prepared folder (docs/format.md)."""

_Progress = Callable[[str, int, int], object]
"""Called with (stage, bytes done, bytes in all) a few times a second; what it raises ends the work."""

# ---- What a preparation is told

@type_check_only
class InputFile(TypedDict):
    path: str
    name: NotRequired[str]
    """What reports call it, if not by its path."""
    dataset: NotRequired[str]
    layout: NotRequired[dict[str, Any]]
    """LLaMA-Factory's columns and tags, and a format."""
    max_samples: NotRequired[bool]

@type_check_only
class Options(TypedDict):
    data: list[InputFile]
    tokenizer: str
    template: str
    cutoff_len: int
    out: str
    format: NotRequired[str]
    variables: NotRequired[dict[str, str]]
    default_system: NotRequired[str | None]
    bos_token: NotRequired[str | None]
    eos_token: NotRequired[str | None]
    truncation: NotRequired[str]
    train_on_prompt: NotRequired[bool]
    mask_history: NotRequired[bool]
    enable_thinking: NotRequired[bool]
    max_samples: NotRequired[int | None]
    deduplicate: NotRequired[str]
    engine: NotRequired[str]
    threads: NotRequired[int]
    strict: NotRequired[bool]
    verify: NotRequired[str]
    cache: NotRequired[str | None]
    part_bytes: NotRequired[int]

# ---- What it answers

@type_check_only
class FirstRow(TypedDict):
    file: str
    row: int

@type_check_only
class DroppedRow(TypedDict):
    file: str
    line: int
    row: int
    reason: str
    first: NotRequired[FirstRow]
    """The earlier row that a duplicate is equal to."""

@type_check_only
class TruncatedRow(TypedDict):
    file: str
    line: int
    row: int
    tokens: int
    tokens_cut: int
    turns_cut: int

@type_check_only
class Summary(TypedDict):
    p50: int
    p90: int
    p95: int
    p99: int
    max: int
    mean: float

@type_check_only
class Source(TypedDict):
    path: str
    dataset: str
    bytes: int
    blake3: str
    rows: int

@type_check_only
class ShardEntry(TypedDict):
    file: str
    rows: int
    tokens: int
    bytes: int
    blake3: str

@type_check_only
class Manifest(TypedDict):
    format_version: int
    fingerprint: str
    format: str
    template: str
    cutoff_len: int
    rows_read: int
    rows_kept: int
    rows_dropped: dict[str, int]
    dropped_examples: list[DroppedRow]
    repairs: dict[str, int]
    notices: dict[str, int]
    ignored_keys: dict[str, int]
    tokens: int
    supervised_tokens: int
    rows_truncated: int
    tokens_cut: int
    turns_cut: int
    most_cut: list[TruncatedRow]
    lengths: Summary
    full_lengths: str
    """Lengths before truncation, for :func:`length_counts`."""
    sources: list[Source]
    shards: list[ShardEntry]

@type_check_only
class EngineReport(TypedDict):
    name: str | None
    """None where nothing had to be tokenized."""
    reason: str | None
    """Why it was not the fast one, or why none was needed."""

@type_check_only
class Report(Manifest):
    path: str
    reused: bool
    remade: NotRequired[list[str]]
    """Files that were damaged and were made again: shards, or the manifest and with it all of them."""
    set_aside: NotRequired[str]
    """Where a folder whose manifest was damaged is now."""
    engine: EngineReport
    seconds: dict[str, float]

@type_check_only
class ShareReport(TypedDict):
    path: str
    share: tuple[int, int]
    parts: int
    engine: EngineReport
    seconds: dict[str, float]

@type_check_only
class Written(TypedDict):
    kind: str
    text: str
    learned: bool

@type_check_only
class Refusal(TypedDict):
    reason: str
    first: FirstRow | None

@type_check_only
class InspectedRow(TypedDict):
    file: str
    row: int
    line: int
    format: str
    record: str
    conversation: dict[str, Any] | None
    text: list[Written]
    repairs: list[str]
    notices: list[str]
    ignored_keys: list[str]
    full_length: int
    tokens_cut: int
    turns_cut: int
    input_ids: list[int]
    spans: list[tuple[int, int]]
    dropped: Refusal | None

@type_check_only
class PackingOptions(TypedDict):
    packing: str
    samples_per_update: int
    micro_batch_size: int
    max_tokens_per_row: int
    rows_per_update: int
    world_size: int
    seed: int

@type_check_only
class PackingStats(TypedDict):
    packing: str
    rows: int
    updates: int
    computed_tokens: int
    real_share: float

@type_check_only
class Loss(TypedDict):
    cutoff_len: int
    rows: int
    tokens: int

@type_check_only
class EffectiveBatch(TypedDict):
    samples: int
    updates: int
    rows_mean: float
    rows_max: int
    tokens_mean: float

@type_check_only
class BatchingReport(TypedDict):
    suggested_cutoff: int
    cutoffs: list[Loss]
    padding: list[PackingStats]
    effective_batches: list[EffectiveBatch]
    samples_planned: int

def prepare(options: Options, progress: _Progress | None = None) -> Report:
    """Prepare data, or find it prepared: then it is verified, and damaged shards are made again.

    Args:
        options: what is prepared.
        progress: called with (stage, bytes done, bytes in all) a few times a second; what it raises ends the work.

    Raises:
        DataError: a file cannot be read, or nothing of it can be trained on.
        TokenizerError: the tokenizer or the template does not fit.
        ConfigError: an option is unknown or has no meaning.
        ArtifactError: the folder is something else, or damaged beyond its shards.
        OSError: the operating system refused.
    """

def prepare_share(options: Options, number: int, count: int, progress: _Progress | None = None) -> ShareReport:
    """Make the parts of one of ``count`` shares of a preparation, the first of which is number 1.

    Args:
        options: what is prepared.
        number: of the share, from 1.
        count: of shares.
        progress: as for :func:`prepare`.

    Raises:
        DataError, TokenizerError, ConfigError, ArtifactError, OSError: as for :func:`prepare`.
    """

def merge(options: Options, progress: _Progress | None = None) -> Report:
    """Join the parts that all shares have made: no data is read.

    Args:
        options: what is prepared.
        progress: as for :func:`prepare`.

    Raises:
        ArtifactError: a part is missing.
        DataError, TokenizerError, ConfigError, OSError: as for :func:`prepare`.
    """

def fingerprint(options: Options) -> str:
    """Identify everything that decides the bytes of a preparation.

    Args:
        options: what is prepared; its place, engine and threads do not matter.

    Returns:
        64 hexadecimal digits.

    Raises:
        TokenizerError: the template is unknown.
        ConfigError: an option is unknown or has no meaning.
        OSError: a file cannot be read.
    """

def inspect_rows(
    options: Options, file: int, rows: Sequence[int], progress: _Progress | None = None
) -> list[InspectedRow]:
    """What a preparation would make of some rows of one of its files.

    Args:
        options: what is prepared.
        file: number of the file, from 0.
        rows: numbers of the rows, from 0.
        progress: as for :func:`prepare`.

    Raises:
        ConfigError: there is no such row.
        DataError, TokenizerError, OSError: as for :func:`prepare`.
    """

# ---- Prepared data

@final
class PreparedFolder:
    """A prepared folder whose shards were checked; N samples."""

    @property
    def manifest(self) -> Manifest:
        """What was prepared, from which files, with which result."""

    @property
    def shards(self) -> list[tuple[str, list[tuple[str, str, int, list[int]]]]]:
        """File of each shard, and of its columns: name, NumPy type, offset in the file, shape."""

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Tokens of each sample, (N,)."""

    @property
    def supervised(self) -> NDArray[np.uint32]:
        """Supervised tokens of each sample, (N,)."""

    @property
    def largest_id(self) -> int | None:
        """The largest token id; None if the ids were not read."""

    @property
    def bytes_verified(self) -> int:
        """Bytes that were read to verify them; 0: all was verified before."""

def open_prepared(
    folder: str | PathLike[str],
    *,
    verify: str = "full",
    cache: str | PathLike[str] | None = None,
    progress: _Progress | None = None,
) -> PreparedFolder:
    """Open a prepared folder: check and verify its shards, and find their columns.

    Args:
        folder: with manifest.json.
        verify: full (every byte by its hash), quick (every value by its range) or off (sizes, headers, offsets and spans).
        cache: folder in which is remembered what was verified; None: only this process remembers.
        progress: as for :func:`prepare`.

    Raises:
        ArtifactError: the folder is no prepared dataset of this version, or a file in it is damaged.
        ConfigError: there is no such way to verify.
        OSError: a file cannot be read.
    """

def read_manifest(folder: str | PathLike[str]) -> Manifest:
    """The manifest of a prepared folder; its shards are not looked at.

    Args:
        folder: with manifest.json.

    Raises:
        ArtifactError: the folder is no prepared dataset of this version, or its manifest is damaged.
        OSError: a file cannot be read.
    """

def verify_prepared(
    folder: str | PathLike[str], progress: _Progress | None = None
) -> tuple[Manifest, list[tuple[str, str]]]:
    """Read every byte of a prepared folder.

    Args:
        folder: with manifest.json.
        progress: as for :func:`prepare`.

    Returns:
        Its manifest, and (file, problem) of each file that is not as it was written.

    Raises:
        ArtifactError: even its manifest cannot be used.
        OSError: a file cannot be read.
    """

@final
class LengthCounts:
    """How many samples have each length; a bucket of several lengths counts as its mean one."""

    @property
    def lengths(self) -> list[int]:
        """The lengths, ascending."""

    @property
    def samples(self) -> list[int]:
        """Samples of each length."""

    @property
    def total_samples(self) -> int:
        """All samples."""

    @property
    def total_tokens(self) -> int:
        """All tokens."""

def length_counts(full_lengths: str) -> LengthCounts:
    """Read the ``full_lengths`` of a manifest.

    Raises:
        ConfigError: it is no such text.
    """

# ---- Templates and tokenizers

def templates() -> list[str]:
    """The names of the built-in chat templates, in the order in which ``template: auto`` tries them."""

def template_keys() -> list[str]:
    """The keys that a written template may have."""

@type_check_only
class WrittenTemplate(TypedDict):
    """The keys are explained in docs/templates.md; one that has its default is missing."""

    name: str
    about: NotRequired[str]
    control: NotRequired[list[str]]
    begin: NotRequired[str]
    default_system: NotRequired[str]
    system: str
    system_in: NotRequired[str]
    system_always: NotRequired[bool]
    user: str
    assistant: str
    generation_prompt: NotRequired[str]
    tool: NotRequired[str]
    end: NotRequired[str]
    thinking: NotRequired[str]
    tools: NotRequired[str]

def written_template(name: str) -> WrittenTemplate | None:
    """A built-in template as it is written.

    Args:
        name: one of :func:`templates`.

    Returns:
        Its keys, without those that have their default; None if there is no such template.
    """

def template_problems(template: str) -> list[tuple[str, str]]:
    """What is wrong with a written template.

    Args:
        template: its keys as a JSON object.

    Returns:
        (key, problem) pairs, empty for a sound template; the key is empty where no single key is at fault.
    """

@type_check_only
class ProbeReport(TypedDict):
    """A probe conversation, rendered by a template and by the model's own."""

    probe: str
    """What the conversation tests."""
    agrees: bool
    """Both print the same, or one of them refuses the conversation."""
    refused: bool
    """The model's own refuses it."""
    ours: str | None
    own: str | None
    error: str | None
    """Why one of the two printed nothing."""
    thinking: bool | None
    """For a generation prompt: whether thinking is enabled."""
    conversation: str
    """As JSON."""

def compare_templates(
    template: str, chat_template: str, bos_token: str | None, eos_token: str | None, tokenizer: str
) -> list[ProbeReport]:
    """Render every probe conversation by a template and by a model's own chat template.

    Args:
        template: a built-in template's name, or a written template as a JSON object.
        chat_template: the model's own template, Jinja.
        bos_token: the tokenizer's beginning-of-sequence token, None if it has none.
        eos_token: the tokenizer's end-of-sequence token, None if it has none.
        tokenizer: path of a ``tokenizer.json``; its control tokens are looked for in what a Jinja template prints.

    Returns:
        A report for each probe.

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
    """A Jinja template rendered with variables (a JSON object), as transformers would: `(kind, text)`, where the kind is
    `text`, or what went wrong: `syntax`, `raised`, `failed`, `unsupported`, `budget`.
    """

@final
class Tokenizer:
    """A ``tokenizer.json`` for plain text: special tokens stay text, other added tokens are tokens in it.

    Args:
        path: the ``tokenizer.json``.
        engine: auto, native or tokenizers; all give equal ids.
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
        """The engine that runs: native or tokenizers."""

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
        engine: auto, native or tokenizers; all give equal ids.
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
        """The engine that runs: native or tokenizers."""

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
        """The ids of text from a conversation: control tokens in it stay text, other added tokens are tokens.

        Raises:
            DataError: the engine refuses the text, or the tokenizer's model makes a control token of it.
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

def padding(lengths: NDArray[np.uint32], supervised: NDArray[np.uint32], options: PackingOptions) -> list[PackingStats]:
    """How full the rows of the first epoch are under each packing.

    Args:
        lengths: tokens of each sample, uint32, (samples,), none of them 0.
        supervised: supervised tokens of each sample, uint32, (samples,).
        options: how the samples are batched; ``packing`` does not matter.

    Raises:
        DataError: the columns are not those of one sound dataset.
        ConfigError: an option is out of its limits.
    """

def batching_report(folder: str | PathLike[str], options: PackingOptions) -> BatchingReport:
    """What a prepared folder means for a run: what other cutoffs would truncate, how much padding each way to batch needs.

    Args:
        folder: with manifest.json.
        options: how the samples are batched; ``packing`` does not matter.

    Raises:
        ArtifactError: the folder is no prepared dataset of this version, or damaged.
        ConfigError: an option is out of its limits.
        OSError: a file cannot be read.
    """

def report_names() -> tuple[list[str], list[str], list[str]]:
    """The names that a report can hold: of reasons, repairs and notices."""
