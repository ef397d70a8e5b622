"""The shape of an 8B model in bf16 and in NF4: tokens/s, and its memory against what `qlora-fast memory` says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benches.gpu.product import Method, PreparedDataset, Shape, add_lora, estimate, report_of
from benches.gpu.report import Report, item
from benches.gpu.shapes import LARGE, TINY, ModelShape, make_data, make_model, quantize
from benches.gpu.step import SPEC, free_memory
from benches.gpu.training import Plan, train
from benches.gpu.variants import missing


def measure(report: Report, tiny: bool) -> None:
    """8B."""
    shape = TINY if tiny else LARGE
    without = missing("bitsandbytes")
    plans = [("bf16", 512), ("NF4", 512)] if tiny else [("bf16", 8192), ("NF4", 2048), ("NF4", 8192)]
    for numbers, budget in plans:
        if numbers == "NF4" and without:
            report.note(f"NF4, rows of {budget:,}: {without}")
            continue
        samples = 8 if tiny else 80
        plan = Plan(samples=samples, budget=budget, warm_up=1, timed=1 if tiny else 3)
        with tempfile.TemporaryDirectory() as folder:
            data = make_data(Path(folder) / "data", plan.samples * plan.updates, shape.vocab)
            try:
                _one(report, shape, data, plan, numbers)
            except Exception as error:
                report.note(
                    f"{numbers}, rows of {budget:,}: {type(error).__name__}: {str(error).splitlines()[0][:200]}",
                    wrong=True,
                )
        free_memory()


def _one(report: Report, shape: ModelShape, data: PreparedDataset, plan: Plan, numbers: str) -> None:
    model = make_model(shape, torch.device("cuda", 0), torch.bfloat16)
    if numbers == "NF4":
        model = quantize(model)
        free_memory()
    adapted = add_lora(model, SPEC, seed=0)
    kernels = report_of(adapted).kernels
    speed = train(adapted, data, plan)
    del adapted
    # The fullest row that these updates can have; all but a third of its tokens are supervised.
    tokens = min(plan.budget, int(sum(sorted(data.lengths.tolist())[-plan.samples :])))
    bits = 4 if numbers == "NF4" else None
    method = Method(tokens=tokens, supervised=tokens * 2 // 3, bits=bits, rank=SPEC.rank, kernels=kernels)
    told = estimate(Shape.of(shape.config().to_dict()), method)
    estimated = (told.total - told.context) / 2**30
    columns = speed.row(f"{numbers}, rows of {plan.budget:,}", None)
    report.row(
        **columns, **{"estimated GiB": round(estimated, 2), "peak ÷ estimate": round(speed.peak_gib / estimated, 3)}
    )


if __name__ == "__main__":
    item(measure)
