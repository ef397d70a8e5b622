"""Training on the CPU: sample-exact packing beside ``transformers.Trainer`` + PEFT on padded batches.

    python -m benches.train_cpu --data alpaca_data.json [--rows 256] [--batch 8 4]

Same model, same adapter, same samples in the same updates, fp32, one process, one run: the losses must agree, so the only
difference left is time. Prints samples/s, real tokens/s, loss and gradient norm; fails when the losses differ.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from benches import rival
from qlora_fast.config import load
from qlora_fast.data.batch import Batches
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import PlanOptions, epoch_plan
from qlora_fast.data.prepare import prepare_config
from qlora_fast.hub import resolve
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import load_base, quiet_libraries
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train.forward import Forward
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.progress import Log
from qlora_fast.train.schedule import Schedule
from qlora_fast.train.trainer import Hooks, Trainer, TrainOptions

SAMPLES_PER_UPDATE = 8
LEARNING_RATE = 1e-4
SPEC = LoraSpec(rank=8, alpha=16)
CPU = torch.device("cpu")


def ours(path: str, dataset: PreparedDataset, packing: str, budget: int) -> rival.Curve:
    """One epoch with our trainer."""
    model = add_lora(load_base(path, dtype=torch.float32, device=CPU), SPEC, seed=0)
    adapter = Adapter(model)
    options = PlanOptions(packing, SAMPLES_PER_UPDATE, 8, budget, 1, 0)
    curve = rival.Curve()

    def on_log(trainer: Trainer, entry: Log) -> None:
        curve.loss.append(entry["loss"])
        curve.grad_norm.append(entry["grad_norm"])

    plan = epoch_plan(dataset.lengths, dataset.supervised, options)
    trainer = Trainer(
        Forward(model, CPU),
        adapter,
        AdamW(adapter, AdamWOptions(max_grad_norm=1.0)),
        Schedule("cosine", LEARNING_RATE, len(plan.supervised), 0),
        Batches(dataset, np.arange(len(dataset)), options.packed),
        lambda epoch: plan,
        TrainOptions(logging_steps=1, eval_every=None, save_every=None),
        Hooks(on_log=on_log, evaluate=lambda _: None, save=lambda _: None),
    )
    curve.seconds = trainer.run().seconds
    return curve


def theirs(path: str, dataset: PreparedDataset, batch: int) -> rival.Curve:
    """One epoch with transformers' Trainer, on the samples of our plan in its order."""
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).requires_grad_(False)
    model = add_lora(base, SPEC, seed=0, kernels="off")
    order = epoch_plan(dataset.lengths, dataset.supervised, PlanOptions("none", SAMPLES_PER_UPDATE, batch, 512, 1, 0))
    return rival.train(
        model,
        dataset,
        order.sample_ids,
        batch=batch,
        accumulation=SAMPLES_PER_UPDATE // batch,
        learning_rate=LEARNING_RATE,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--budget", type=int, default=2048, help="tokens of a packed row")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"dataset={words.data}", f"max_samples={words.rows}", f"prepared_dir={folder}"]
        dataset = prepare_config(load(None, settings).config).open()
        path = resolve.model_path(resolve.EMBEDDED)
        curves = {"ours, packing: exact": ours(path, dataset, "exact", words.budget)}
        for batch in words.batch:
            curves[f"Trainer + PEFT, padded batches of {batch}"] = theirs(path, dataset, batch)
    reference = curves["ours, packing: exact"]
    tokens = int(dataset.lengths.sum())
    rows = []
    for name, curve in curves.items():
        error = float(np.max(np.abs(np.subtract(curve.loss, reference.loss)) / np.asarray(reference.loss)))
        rows.append(
            {
                "what": name,
                "samples_per_second": len(dataset) / curve.seconds,
                "tokens_per_second": tokens / curve.seconds,
                "speed_of_ours": curve.seconds / reference.seconds,
                "first_loss": curve.loss[0],
                "last_loss": curve.loss[-1],
                "last_grad_norm": curve.grad_norm[-1],
                "largest_loss_difference": error,
            }
        )
    if words.json:
        print(json.dumps(rows, indent=2))
    for row in rows:
        print(
            f"{row['what']:<36}{row['samples_per_second']:>7.2f} samples/s{row['tokens_per_second']:>8.0f} tok/s"
            f"{row['speed_of_ours']:>7.2f}×  loss {row['first_loss']:.5f} → {row['last_loss']:.5f}, "
            f"grad norm {row['last_grad_norm']:.4f}, loss differs by ≤ {row['largest_loss_difference']:.1e}"
        )
    worst = max(row["largest_loss_difference"] for row in rows)
    if worst > 1e-5:
        raise SystemExit(f"the losses differ by {worst:.1e}: the two do not train the same thing")


if __name__ == "__main__":
    main()
