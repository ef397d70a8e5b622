"""Settings of the evaluation and of what a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from qlora_fast.config.keys.table import Count, Interval, SwitchOrCheckpoint, key

When = Literal["no", "steps", "epoch"]
Metric = Literal["eval_loss", "eval_accuracy"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)


@dataclass(frozen=True, kw_only=True)
class EvalKeys:
    """When to evaluate, and what follows from it."""

    eval_strategy: When = key("no", "when to evaluate", affects="result")
    eval_steps: Interval = key(
        50,
        "optimizer steps between evaluations (eval_strategy: steps)",
        unit="steps",
        there="logging_steps",
        affects="result",
    )
    per_device_eval_batch_size: Count = key(
        8, "samples of an evaluation row; changes speed, not the result", unit="samples", affects="result"
    )
    load_best_model_at_end: bool = key(
        False,
        "end with the adapter of the best evaluation",
        differs="needs no matching save_steps: best/ is always kept",
        affects="result",
    )
    metric_for_best_model: Metric = key("eval_loss", "the figure that determines the best evaluation", affects="result")
    early_stopping_steps: Count | None = key(
        None, "stop after this many consecutive evaluations without improvement", unit="evaluations", affects="result"
    )
    compute_accuracy: bool = key(
        False, "also report eval_accuracy, the share of tokens predicted correctly", affects="result"
    )


@dataclass(frozen=True, kw_only=True)
class OutputKeys:
    """What is written, where and when."""

    output_dir: str = key("runs/run", "folder of the run", affects="nothing", path=True)
    overwrite_output_dir: bool = key(
        False,
        "move an earlier run in output_dir aside and start over",
        differs="nothing is deleted; false refuses a folder with a run in it, where LLaMA-Factory resumes it silently",
        affects="nothing",
    )
    resume_from_checkpoint: SwitchOrCheckpoint = key(
        False,
        "true: resume from the newest complete checkpoint in output_dir; auto: the same, for a command that is started again "
        "unchanged, also with overwrite_output_dir, which then moves only another run aside; a path: from this one of its "
        "checkpoints, and later ones are moved aside",
        lacks="a checkpoint outside output_dir, or of another program",
        affects="nothing",
        path=True,
    )
    logging_steps: Interval = key(10, "optimizer steps between log lines", unit="steps", there="500", affects="result")
    save_strategy: When = key("steps", "when to write checkpoints", affects="result")
    save_steps: Interval = key(
        100, "optimizer steps between checkpoints (save_strategy: steps)", unit="steps", there="500", affects="result"
    )
    save_total_limit: Count | None = key(
        None, "checkpoints kept (best and newest always are)", unit="checkpoints", affects="result"
    )
    save_only_model: bool = key(
        False, "checkpoints hold the adapter alone: smaller, but no run can be resumed from them", affects="result"
    )
    plot_loss: bool = key(True, "draw training_loss.png and training_eval_loss.png", there="false", affects="result")
    report_to: list[Literal["none", "all"] | Tracker] = key(
        ["none"],
        "also send the log to these trackers; all: those installed. A tracker that fails never stops the run",
        lacks="swanlab and others",
        affects="result",
    )
    run_name: str | None = key(None, "name of the run in the trackers; unset: output_dir", affects="result")
    project: str = key("qlora-fast", "project of wandb and trackio, experiment of mlflow", affects="result")
