"""Tokens/s of the 0.6B shape at rows of 2k and 8k, one change after another, each with its loss and gradient norm."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benches.gpu.product import SWITCHES, PreparedDataset, add_lora
from benches.gpu.report import Report, item
from benches.gpu.shapes import SMALL, TINY, ModelShape, make_data, make_model
from benches.gpu.step import SPEC
from benches.gpu.training import Plan, Speed, train
from benches.gpu.variants import LADDER


def measure(report: Report, tiny: bool) -> None:
    """The ablation."""
    shape = TINY if tiny else SMALL
    plan = Plan(samples=8, budget=512, warm_up=1, timed=1) if tiny else Plan()
    budgets = (512,) if tiny else (2048, 8192)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", plan.samples * plan.updates, shape.vocab)
        reference: Speed | None = None
        for variant in LADDER:
            if why := variant.absent():
                report.note(f"{variant.name}: {why}")
                continue
            switched = [v.switch for v in LADDER[: LADDER.index(variant) + 1] if v.switch in SWITCHES]
            for budget in budgets:
                name = f"{variant.name}, rows of {budget:,}"
                own = Plan(samples=plan.samples, budget=budget, warm_up=plan.warm_up, timed=plan.timed)
                reference = _one(report, name, shape, data, own, switched, reference) or reference
        padded = Plan("none", plan.samples, 4, 1024, plan.warm_up, plan.timed)
        _one(report, "as today, padded batches of 4", shape, data, padded, [], reference)


def _one(
    report: Report,
    name: str,
    shape: ModelShape,
    data: PreparedDataset,
    plan: Plan,
    switched: list[str],
    reference: Speed | None,
) -> Speed | None:
    """One line of the table. An error is a line too: the other variants are still worth having."""
    try:
        model = add_lora(make_model(shape, torch.device("cuda", 0), torch.bfloat16), SPEC, seed=0)
        for switch in switched:
            SWITCHES[switch](model)
        speed = train(model, data, plan)
    except Exception as error:
        report.row(
            True, run=name, **{"real tokens/s": f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"}
        )
        return None
    finally:
        torch.cuda.empty_cache()
    columns = speed.row(name, reference)
    report.row(columns["real tokens/s"] == "void", **columns)
    return speed if reference is None else None


if __name__ == "__main__":
    item(measure)
