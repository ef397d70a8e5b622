"""Settings of the data and of how it is batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from qlora_fast.config.keys.table import Count, NotNegative, Share, Whole, key

Format = Literal["auto", "alpaca", "sharegpt", "messages"]
Truncation = Literal["structure", "llamafactory", "drop"]
Packing = Literal["exact", "dense", "bucketed", "none"]
PACKED: tuple[Packing, ...] = ("exact", "dense")
"""Samples are concatenated and nothing is padded; the other two pad."""
MixStrategy = Literal["concat", "interleave_under", "interleave_over"]
Deduplicate = Literal["off", "exact"]
Verify = Literal["full", "quick", "off"]
Engine = Literal["auto", "native", "tokenizers"]


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """The data, and how it becomes tokens."""

    dataset: list[str] = key(
        ["identity", "general"],
        "training data: files, globs, folders, - for standard input, names of dataset_info.json, or the embedded "
        "identity and general",
        affects="source",
        path=True,
    )
    dataset_dir: str = key(
        ".",
        "folder that dataset names start from, and of dataset_info.json",
        there="data",
        affects="source",
        compared_as="dataset",
        path=True,
    )
    dataset_outside: bool = key(
        False,
        "read files that dataset_info.json names outside its folder, as absolute paths, by `..` or through links",
        theirs=None,
        affects="source",
        compared_as="dataset",
    )
    eval_dataset: list[str] = key(
        [], "data to evaluate on, instead of val_size; named as dataset", affects="result", path=True
    )
    val_size: NotNegative = key(
        0.0,
        "hold out for evaluation: below 1 a share of the rows, from 1 on a count",
        unit="share or rows",
        affects="learning",
    )
    format: Format = key(
        "auto", "record format; auto looks at the first records of each file", theirs=None, affects="data"
    )
    variables: dict[str, str] = key(
        {}, "text for {{placeholders}} in the data, such as name and author", theirs=None, affects="data"
    )
    cutoff_len: Annotated[int, Meta(ge=8)] = key(
        2048, "longest sample; see truncation. No sample is padded to it", unit="tokens", affects="data"
    )
    truncation: Truncation = key(
        "structure",
        "how longer rows are truncated: the template kept complete, LLaMA-Factory's rule, or the row dropped",
        theirs=None,
        affects="data",
    )
    max_dropped_share: Share = key(
        0.9,
        "a run does not begin when a larger share of the rows was dropped; each dropped row is counted and named anyway",
        theirs=None,
        affects="nothing",
    )
    train_beyond_max_positions: bool = key(
        False,
        "train on rows that are longer than the positions named in the model's config.json (RoPE scaling included)",
        theirs=None,
        affects="nothing",
    )
    train_on_prompt: bool = key(
        False,
        "supervise the prompts too, not only the answers",
        differs="the token that opens a turn and the header of an answer are not supervised; there they are",
        affects="data",
    )
    mask_history: bool = key(False, "supervise only the last answer of a conversation", affects="data")
    enable_thinking: bool = key(
        True,
        "false: thoughts are removed from the answers, and prompts are rendered as the template does with thinking off (an "
        "empty think block, not supervised)",
        differs="true: the empty think block of an answer without thoughts is in the prompt; there it is supervised. false: "
        "it stands where the template prints it, before the last answer; there before each",
        affects="data",
    )
    max_samples: Count | None = key(None, "only the first N rows of each dataset", unit="rows", affects="data")
    mix_strategy: MixStrategy = key(
        "concat",
        "how several datasets are put together: all rows once; until the first is used up (nothing is repeated); until "
        "all are used up (smaller ones are repeated)",
        differs="rows are drawn in a random order, not from the beginning of each dataset; what is held out is taken "
        "before, so no repeated row is on both sides",
        lacks="interleave_once",
        affects="learning",
    )
    interleave_probs: list[float] = key(
        [], "shares of the datasets when they are interleaved, one per dataset; unset: equal shares", affects="learning"
    )
    deduplicate: Deduplicate = key(
        "off",
        "exact: drop rows whose conversation is equal to an earlier one, and keep equal first questions on one side of "
        "the split",
        theirs=None,
        affects="data",
    )
    strict: bool = key(
        False,
        "refuse a file with a row that would be dropped, instead of counting it",
        theirs=None,
        affects="preparation",
    )
    prepared_dir: str = key(
        "prepared",
        "where prepared datasets are kept, one folder per fingerprint",
        theirs=None,
        affects="nothing",
        path=True,
    )
    engine: Engine = key("auto", "tokenizer engine; all give the same ids", theirs=None, affects="preparation")
    verify: Verify = key(
        "full",
        "what is verified when prepared data is opened: each byte by its hash, each value by its range, or offsets and "
        "sizes only; unchanged files are not read again",
        theirs=None,
        affects="preparation",
    )
    threads: Whole = key(
        0, "threads of the preparation; 0 takes all cores", unit="threads", theirs=None, affects="preparation"
    )


@dataclass(frozen=True, kw_only=True)
class BatchKeys:
    """Which samples form an optimizer step, and in which packed rows they are computed."""

    packing: Packing = key(
        "exact",
        "exact: each optimizer step has the samples of the padded run, without padding; dense: full rows, fewer steps; "
        "bucketed: sorted by length and padded; none: shuffled and padded",
        differs="true there fills rows and makes fewer steps (dense here); false there pads (exact here: the same "
        "steps without padding)",
        affects="learning",
    )
    per_device_train_batch_size: Count = key(
        4,
        "samples of a micro-batch on each device",
        unit="samples",
        there="8",
        affects="batch",
        compared_as="samples_per_update",
    )
    gradient_accumulation_steps: Count = key(
        4,
        "micro-batches per optimizer step",
        unit="micro-batches",
        there="1",
        affects="batch",
        compared_as="samples_per_update",
    )
    max_tokens_per_row: Annotated[int, Meta(ge=8)] | Literal["auto"] = key(
        "auto",
        "token budget of a packed row. auto: on a GPU the whole optimizer step in one row, or the longest row that fits into "
        "its memory; on a CPU 1024, or the longest sample; with any packing but exact, cutoff_len",
        unit="tokens",
        theirs=None,
        affects="arithmetic",
    )
    world_size: Count = key(
        1,
        "number of devices (for plan; train takes it from the launcher)",
        unit="devices",
        theirs=None,
        affects="batch",
        compared_as="samples_per_update",
    )
