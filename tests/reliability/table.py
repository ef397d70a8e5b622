"""The scoreboard's rows: for each campaign its goal, what is counted, and what others reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        campaign: its name. what: what is done. goal: what must hold for every case. before: our own figure when it was first
            measured (commit e91f13c). others: what HF Trainer or ``datasets`` reach; "–" where nothing was measured.
    """

    campaign: str
    what: str
    goal: str
    before: str
    others: str


ROWS = (
    Row(
        "kill-prep", "`prep` killed at every call that changes a file, and in the middle of every write",
        "the next `prep` gives the same bytes, nothing is left over", "477 of 477 tried", "–",
    ),
    Row(
        "kill-train", "the same of `train` with checkpoints, evaluations and `best/`",
        "the resumed run ends with the same files, nothing is left over", "314 of 323", "HF Trainer: 4 of 12 random kills within a save [M3]",
    ),
    Row(
        "kill-merge", "the same of `merge`", "the next `merge` gives the same bytes, nothing is left over",
        "78 of 78 the same, 55 left a folder behind", "–",
    ),
    Row(
        "random-kills", "training in 8 variants (packing, accumulation, DoRA, noise, by epoch), killed up to 3 times at random moments",
        "the resumed run ends with the same files", "39 of 40", "HF Trainer: 1 of 1 from a clean checkpoint [M1]",
    ),
    Row(
        "errors", "ENOSPC, EIO, EACCES, EROFS, EMFILE … at every call of `prep`, `train` and `merge`, once or from then on",
        "one clear error, or the run continues and reports what it lacks; the next command makes the rest", "67 of 73 (6 tracebacks)",
        "HF Trainer: 0 of 1, cannot be resumed after a full disk [M4]",
    ),
    Row(
        "limits", "files that may not grow, few descriptors, little memory, a small or read-only disk, stdout or stderr on a full disk",
        "the same", "in the row above", "–",
    ),
    Row(
        "bit-flips", "one bit flipped in prepared data, checkpoints, `best/`, `last/`, adapters",
        "detected, and made again where the source is there", "prepared data: 21 of 300; checkpoints: all",
        "HF Trainer: 2 of 2 flips in adapter and optimizer not detected [M2]; safetensors and Arrow: not detected",
    ),
    Row(
        "checkpoints", "the newest checkpoint, `best/`, run.json, the log damaged in every way that happens; forged content",
        "the run resumes from what is complete, or refuses what is forged", "92 of 94, `best/` 0 of 4, forged 2 of 7",
        "HF Trainer, 18 cases: 9 cannot be resumed, 5 wrong without an error, 4 harmless [M2]",
    ),
    Row(
        "damaged-runs", "run.json, results, state, log, scores and config of a finished run damaged or of another shape, then every command that reads them",
        "one clear error, or the command does not need it", "–", "–",
    ),
    Row(
        "identity", "resumed with another setting, base model, tokenizer, template, data or evaluation data",
        "refused, and the field is named; what changes nothing is free", "32 of 36 (base model and evaluation data unnoticed)",
        "HF Trainer: another run's checkpoint is taken and returned as the result [M5]",
    ),
    Row(
        "hostile-data", "the corpus of hostile data files, each with the outcome that it must have", "that outcome, no crash, none stops responding",
        "224 of 229", "`datasets`, 41 files: 17 refused, 1 killed the process, at least 5 wrong without an error [M7]",
    ),
    Row(
        "json-suite", "JSONTestSuite's 318 values, as a file, in an array, as a line", "`y_` read, `n_` refused, no crash",
        "all", "Python's `json` takes 3 of 188 `n_`; orjson 0 [M11]",
    ),
    Row(
        "control-tokens", "every control string in every field of every format, under three templates",
        "a row's control tokens are those of its frame, or it is dropped", "19 forged of 1,311",
        "transformers: a forged turn by default; its switch cannot be used with masks [M10]",
    ),
    Row(
        "hostile-models", "hostile model and adapter folders through `train`, `merge` and `chat`",
        "one clear error within 20 s; no code of the folder runs", "69 of 126 (55 tracebacks, 2 stopped responding)", "–",
    ),
)  # fmt: skip
