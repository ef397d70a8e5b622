"""Settings of the data and of how it is batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qlora_fast.config.keys.table import at_least, key, unless_unset

Format = Literal["auto", "alpaca", "sharegpt", "messages"]
Truncation = Literal["structure", "llamafactory", "drop"]
Packing = Literal["exact", "dense", "bucketed", "none"]
MixStrategy = Literal["concat", "interleave_under", "interleave_over"]
Deduplicate = Literal["off", "exact"]
Engine = Literal["auto", "native", "fastokens", "tokenizers"]


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """What is learned from, and how it becomes tokens."""

    dataset: list[str] = key(
        ["identity", "general"],
        "training data: files, globs, folders, - for standard input, names of dataset_info.json, or the embedded "
        "identity and general",
    )
    dataset_dir: str = key(".", "folder that dataset names start from, and of dataset_info.json", there="data")
    eval_dataset: list[str] = key([], "data to evaluate on, instead of val_size; named as dataset")
    val_size: float = key(
        0.0,
        "hold out for evaluation: below 1 a share of the rows, from 1 on a count",
        check=at_least(0),
        unit="share or rows",
    )
    format: Format = key("auto", "record format; auto looks at the first records of each file", theirs=None)
    variables: dict[str, str] = key({}, "text for {{placeholders}} in the data, such as name and author", theirs=None)
    cutoff_len: int = key(
        2048,
        "longest sample; see truncation. Nothing is padded to it",
        check=at_least(8),
        unit="tokens",
    )
    truncation: Truncation = key(
        "structure",
        "what happens beyond cutoff_len: keep the template whole, LLaMA-Factory's rule, or drop the row",
        theirs=None,
    )
    train_on_prompt: bool = key(False, "learn the prompts too, not only the answers")
    mask_history: bool = key(False, "learn only the last answer of a conversation")
    max_samples: int | None = key(
        None, "only the first N rows of each dataset", check=unless_unset(at_least(1)), unit="rows"
    )
    mix_strategy: MixStrategy = key(
        "concat",
        "how several datasets are put together: all rows once; until the first is used up (nothing is repeated); until "
        "all are used up (smaller ones are repeated)",
        differs="rows are drawn in a random order, not from the beginning of each dataset; what is held out is taken "
        "before, so no repeated row is on both sides",
        lacks="interleave_once",
    )
    interleave_probs: list[float] = key(
        [], "shares of the datasets when they are interleaved, one for each; unset: they take turns"
    )
    deduplicate: Deduplicate = key(
        "off",
        "exact: drop rows whose conversation is equal to an earlier one, and keep equal first questions on one side of "
        "the split",
        theirs=None,
    )
    strict: bool = key(False, "refuse a file with a row that would be dropped, instead of counting it", theirs=None)
    prepared_dir: str = key("prepared", "where prepared datasets are kept, one folder a fingerprint", theirs=None)
    engine: Engine = key("auto", "tokenizer engine; all give the same ids", theirs=None)
    threads: int = key(
        0, "threads of the preparation; 0 takes all cores", check=at_least(0), unit="threads", theirs=None
    )


@dataclass(frozen=True, kw_only=True)
class BatchKeys:
    """Which samples meet in an update, and in which rows they are computed."""

    packing: Packing = key(
        "exact",
        "exact: each update holds the samples of the plain run, without padding; dense: full rows, fewer updates; "
        "bucketed: sorted and padded; none: the textbook",
        differs="true there fills rows and divides the updates (dense here); false there pads (exact here: the same "
        "updates without the pads)",
    )
    per_device_train_batch_size: int = key(
        4, "samples of a micro-batch on each device", check=at_least(1), unit="samples", there="8"
    )
    gradient_accumulation_steps: int = key(
        4, "micro-batches of an update", check=at_least(1), unit="micro-batches", there="1"
    )
    max_tokens_per_row: int | None = key(
        None,
        "token budget of a packed row: higher is faster until memory ends; unset: cutoff_len",
        check=unless_unset(at_least(8)),
        unit="tokens",
        theirs=None,
    )
    world_size: int = key(
        1,
        "number of devices (plan only; train asks the launcher)",
        check=at_least(1),
        unit="devices",
        theirs=None,
    )
