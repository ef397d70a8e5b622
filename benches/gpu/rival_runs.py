"""One rival on the task of :mod:`benches.gpu.rivals`, in a process of its own: ``python -m benches.gpu.rival_runs NAME TASK.json``.

Each follows its own documentation for LoRA with its fast paths on, and trains what the others train: the same rows, the same
adapter, as many samples per optimizer step, the same constant rate. What only it can choose (order, packing) is left as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CURVE = "RIVAL_CURVE"
"""The environment variable with the file of a run's curve, for a plugin that is given no argument."""
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True)
class Task:
    """What all train.

    Attributes:
        model: a folder. data: an Alpaca file of exactly ``updates`` · ``samples`` rows. folder: where a rival may write.
        samples: of an optimizer step. batch: of a padded micro-batch.
    """

    model: str
    data: str
    folder: str
    curve: str
    updates: int
    samples: int
    batch: int
    cutoff: int
    rank: int
    rate: float
    template: str
    bf16: bool

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: str) -> Task:
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def ours(task: Task) -> None:
    """The product as a user runs it."""
    from benches.gpu.rival_watch import Watch
    from qlora_fast import train

    watch = Watch(Path(task.curve))

    def on_log(entry: dict[str, float]) -> None:
        if "loss" in entry:
            watch.on_step_end()
            watch.line(loss=entry["loss"], grad_norm=entry["grad_norm"])

    train(
        model_name_or_path=task.model, dataset=[task.data], template=task.template, cutoff_len=task.cutoff, val_size=0,
        lora_rank=task.rank, lora_alpha=2 * task.rank, learning_rate=task.rate, lr_scheduler_type="constant",
        per_device_train_batch_size=task.batch, gradient_accumulation_steps=task.samples // task.batch,
        num_train_epochs=1, bf16=task.bf16, logging_steps=1, save_strategy="no", plot_loss=False,
        output_dir=f"{task.folder}/ours", prepared_dir=f"{task.folder}/prepared", on_log=on_log,
    )  # fmt: skip


def stock(task: Task) -> None:
    """transformers' Trainer on PEFT's layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.bfloat16 if task.bf16 else torch.float32)
    config = LoraConfig(r=task.rank, lora_alpha=2 * task.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    _trainer(task, get_peft_model(base, config))


def unsloth(task: Task) -> None:
    """Its model, adapter and kernels; the batches are those of the stock Trainer."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        task.model, max_seq_length=task.cutoff, load_in_4bit=False, dtype=None if task.bf16 else "float32"
    )
    model = FastLanguageModel.get_peft_model(
        model, r=task.rank, lora_alpha=2 * task.rank, lora_dropout=0, bias="none", target_modules=TARGETS,
        use_gradient_checkpointing=False, random_state=0,
    )  # fmt: skip
    _trainer(task, model)


def llamafactory(task: Task) -> None:
    """Its trainer, from a config as its users write it."""
    from llamafactory.train.tuner import run_exp

    from benches.gpu.rival_watch import Watch

    folder = Path(task.folder)
    (folder / "dataset_info.json").write_text(json.dumps({"task": {"file_name": task.data}}), encoding="utf-8")
    run_exp(llamafactory_config(task), callbacks=[Watch(Path(task.curve))])


def llamafactory_config(task: Task) -> dict[str, Any]:
    """Its settings; neat_packing would change how many samples an optimizer step has."""
    return {
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "model_name_or_path": task.model,
        "dataset": "task", "dataset_dir": task.folder, "template": task.template, "cutoff_len": task.cutoff,
        "lora_rank": task.rank, "lora_alpha": 2 * task.rank, "lora_target": "all", "lora_dropout": 0,
        "per_device_train_batch_size": task.batch, "gradient_accumulation_steps": task.samples // task.batch,
        "learning_rate": task.rate, "lr_scheduler_type": "constant", "num_train_epochs": 1, "bf16": task.bf16,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "overwrite_output_dir": True,
        "output_dir": f"{task.folder}/llamafactory", "disable_gradient_checkpointing": True,
    }  # fmt: skip


def axolotl(task: Task) -> None:
    """Its command, from a config as its users write it."""
    config = Path(task.folder) / "axolotl.json"  # JSON is YAML
    config.write_text(json.dumps(axolotl_config(task)), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "axolotl.cli.train", str(config)], check=True)


def axolotl_config(task: Task) -> dict[str, Any]:
    """Its settings, with its LoRA kernels; sample_packing would change how many samples an optimizer step has."""
    return {
        "base_model": task.model, "adapter": "lora", "lora_r": task.rank, "lora_alpha": 2 * task.rank,
        "lora_dropout": 0, "lora_target_linear": True, "lora_mlp_kernel": True, "lora_qkv_kernel": True,
        "lora_o_kernel": True, "datasets": [{"path": task.data, "ds_type": "json", "type": "alpaca"}],
        "sequence_len": task.cutoff, "sample_packing": False, "micro_batch_size": task.batch,
        "gradient_accumulation_steps": task.samples // task.batch, "num_epochs": 1, "learning_rate": task.rate,
        "lr_scheduler": "constant", "optimizer": "adamw_torch_fused", "bf16": task.bf16, "logging_steps": 1,
        "save_strategy": "no", "output_dir": f"{task.folder}/axolotl", "gradient_checkpointing": False,
        "plugins": ["benches.gpu.rival_watch.AxolotlPlugin"],
    }  # fmt: skip


def _trainer(task: Task, model: Any) -> None:
    """transformers' Trainer over the rows of our preparation, padded micro-batch by micro-batch."""
    import numpy as np

    from benches import rival
    from benches.gpu.rival_watch import Watch

    data = prepared(task)
    rival.train(
        model, data, np.arange(len(data)), batch=task.batch, accumulation=task.samples // task.batch,
        learning_rate=task.rate, bf16=task.bf16, scheduler="constant", callbacks=[Watch(Path(task.curve))],
    )  # fmt: skip


def prepared(task: Task) -> Any:
    """The rows as token ids: what is counted, and what the stock Trainer is given."""
    from qlora_fast.config import of
    from qlora_fast.data.prepare import prepare_config

    settings = {"model_name_or_path": task.model, "dataset": [task.data], "template": task.template}
    return prepare_config(of(**settings, cutoff_len=task.cutoff, prepared_dir=f"{task.folder}/prepared")).open()


RUNS: dict[str, tuple[str, Callable[[Task], None]]] = {
    "qlora-fast": ("qlora_fast", ours),
    "transformers.Trainer + PEFT": ("transformers", stock),
    "Unsloth": ("unsloth", unsloth),
    "LLaMA-Factory": ("llamafactory", llamafactory),
    "Axolotl": ("axolotl", axolotl),
}
"""By name: the package that has to be installed, and the run."""


if __name__ == "__main__":
    _name, _path = sys.argv[1:]
    _task = Task.read(_path)
    os.environ[CURVE] = _task.curve
    RUNS[_name][1](_task)
