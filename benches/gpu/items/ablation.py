"""Tokens/s of the 0.6B shape at rows of 2k and 8k, one change after another, each with its loss and gradient norm."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benches.gpu.product import PreparedDataset
from benches.gpu.report import Report, item
from benches.gpu.shapes import SMALL, TINY, ModelShape, make_data, make_model
from benches.gpu.step import SPEC, free_memory
from benches.gpu.training import Plan, Speed, train
from benches.gpu.variants import INSTEAD, LADDER, Variant, everything


def measure(report: Report, tiny: bool) -> None:
    """The ablation."""
    shape = TINY if tiny else SMALL
    plan = Plan(samples=8, budget=512, warm_up=1, timed=1) if tiny else Plan()
    budgets = (512,) if tiny else (2048, 8192)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", plan.samples * plan.updates, shape.vocab)
        reference: Speed | None = None
        padded = (Variant("all of it, padded batches of 4", everything), replace(plan, packing="none", budget=1024))
        packed = [
            [
                (replace(variant, name=f"{variant.name}, rows of {budget:,}"), replace(plan, budget=budget))
                for variant in variants
                for budget in budgets
            ]
            for variants in (LADDER, INSTEAD)
        ]
        for variant, own in (*packed[0], padded, *packed[1]):
            reference = _one(report, variant, shape, data, own, reference) or reference


def _one(
    report: Report,
    variant: Variant,
    shape: ModelShape,
    data: PreparedDataset,
    plan: Plan,
    reference: Speed | None,
) -> Speed | None:
    """One line of the table. An error is a line too: the other variants are still worth having. Gives the first speed."""
    name = variant.name
    try:
        model = variant.adapt(make_model(shape, torch.device("cuda", 0), torch.bfloat16), SPEC)
        speed = train(model, data, plan, make_pass=variant.row_pass, said=lambda what: report.note(f"{name}: {what}"))
    except Exception as error:
        report.row(
            True, run=name, **{"real tokens/s": f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"}
        )
        return None
    finally:
        model = None
        free_memory()
    columns = speed.row(name, reference)
    report.row(columns["real tokens/s"] == "void", **columns)
    return speed if reference is None else None


if __name__ == "__main__":
    item(measure)
