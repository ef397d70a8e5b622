"""transformers.Trainer + PEFT as a user writes it: PEFT's own layers, padded batches, sdpa; warm-up left out as for ours."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benches import rival
from benches.gpu.product import PlanOptions, epoch_plan
from benches.gpu.report import Report, item
from benches.gpu.shapes import SMALL, TINY, make_data, make_model
from benches.gpu.step import SPEC
from benches.gpu.training import LEARNING_RATE, Plan, Speed


def measure(report: Report, tiny: bool) -> None:
    """Trainer + PEFT."""
    from peft import LoraConfig, TaskType, get_peft_model

    shape = TINY if tiny else SMALL
    plan = Plan(samples=8, warm_up=1, timed=1) if tiny else Plan()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", plan.samples * plan.updates, shape.vocab)
        # The same samples in each update as the runs of `ablation`.
        order = epoch_plan(data.lengths, data.supervised, PlanOptions("none", plan.samples, plan.batch, 1024, 1, 0))
        base = make_model(shape, torch.device("cuda", 0), torch.bfloat16, attention="sdpa")
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        config = LoraConfig(
            r=SPEC.rank, lora_alpha=int(SPEC.alpha), target_modules=targets, task_type=TaskType.CAUSAL_LM
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = get_peft_model(base, config)
        torch.cuda.reset_peak_memory_stats()
        curve = rival.train(
            model, data, order.sample_ids, batch=plan.batch, accumulation=plan.samples // plan.batch,
            learning_rate=LEARNING_RATE, bf16=True, scheduler="constant",
        )  # fmt: skip
        tokens = [
            int(data.lengths[order.sample_ids[k * plan.samples : (k + 1) * plan.samples]].sum())
            for k in range(plan.updates)
        ]
    timed = slice(plan.warm_up, plan.updates)
    speed = Speed(
        sum(tokens[timed]) / max(curve.ends[plan.updates - 1] - curve.ends[plan.warm_up - 1], 1e-9),
        torch.cuda.max_memory_allocated() / 2**30,
        torch.cuda.max_memory_reserved() / 2**30,
        float(np.mean(curve.loss[-plan.warm_up :])),
        curve.grad_norm[-1],
    )
    columns = speed.row(f"Trainer + PEFT, padded batches of {plan.batch}, bf16", None)
    report.row(**columns)
    report.note(
        "to be read beside `ablation`: the same samples in each update, the same seed of the adapter, the same rate"
    )


if __name__ == "__main__":
    item(measure)
