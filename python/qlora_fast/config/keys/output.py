"""Settings of the evaluation and of what a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qlora_fast.config.keys.table import at_least, checkpoint_or_switch, count_or_share, each_of, key, unless_unset

When = Literal["no", "steps", "epoch"]
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


@dataclass(frozen=True, kw_only=True)
class EvalKeys:
    """When to look at held-out data, and what follows from it."""

    eval_strategy: When = key("no", "when to evaluate")
    eval_steps: int | float = key(
        50,
        "updates between evaluations (eval_strategy: steps)",
        check=count_or_share,
        unit="updates",
        there="logging_steps",
    )
    per_device_eval_batch_size: int = key(
        8, "samples of an evaluation row; changes speed, not the result", check=at_least(1), unit="samples"
    )
    load_best_model_at_end: bool = key(
        False,
        "end with the adapter of the best evaluation",
        differs="needs no matching save_steps: best/ is always kept",
    )
    metric_for_best_model: Literal["eval_loss", "eval_accuracy"] = key("eval_loss", "what best means")
    early_stopping_steps: int | None = key(
        None,
        "stop after this many evaluations in a row without a better one",
        check=unless_unset(at_least(1)),
        unit="evaluations",
    )
    compute_accuracy: bool = key(False, "also report eval_accuracy, the share of tokens predicted rightly")


@dataclass(frozen=True, kw_only=True)
class OutputKeys:
    """What is written, where and when."""

    output_dir: str = key("runs/run", "folder of the run")
    overwrite_output_dir: bool = key(
        False,
        "move an earlier run in output_dir aside and start anew",
        differs="nothing is deleted; false refuses a folder with a run in it, where LLaMA-Factory goes on with it silently",
    )
    resume_from_checkpoint: bool | str = key(
        False,
        "true: go on from the newest whole checkpoint in output_dir; a path: from this one of its checkpoints, and those "
        "behind it are moved aside",
        check=checkpoint_or_switch,
        lacks="a checkpoint outside output_dir, or of another program",
    )
    logging_steps: int | float = key(10, "updates between log lines", check=count_or_share, unit="updates", there="500")
    save_strategy: When = key("steps", "when to write checkpoints")
    save_steps: int | float = key(
        100,
        "updates between checkpoints (save_strategy: steps)",
        check=count_or_share,
        unit="updates",
        there="500",
    )
    save_total_limit: int | None = key(
        None,
        "checkpoints kept (best and newest always are)",
        check=unless_unset(at_least(1)),
        unit="checkpoints",
    )
    save_only_model: bool = key(False, "checkpoints hold the adapter alone: smaller, but no run can go on from them")
    plot_loss: bool = key(True, "draw training_loss.png and training_eval_loss.png", there="false")
    report_to: list[str] = key(
        ["none"],
        "also send the log to these trackers; all: those installed. A tracker that fails never stops the run",
        check=each_of("none", "all", *TRACKERS),
        lacks="swanlab and others",
    )
    run_name: str | None = key(None, "name of the run in the trackers; unset: output_dir")
    project: str = key("qlora-fast", "project of wandb and trackio, experiment of mlflow")
