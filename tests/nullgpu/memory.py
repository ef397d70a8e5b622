"""A program for the null GPU: what happens where its memory ends. Prints one JSON object."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402
from prepared import random_dataset  # noqa: E402
from qlora_fast.config import Config  # noqa: E402
from qlora_fast.data.batch import packed_row  # noqa: E402
from qlora_fast.errors import TrainingError  # noqa: E402
from qlora_fast.model.flat_adapter import Adapter  # noqa: E402
from qlora_fast.train import memory_probe, memory_usage  # noqa: E402
from qlora_fast.train.forward import Forward  # noqa: E402

GPU = torch.device("cuda", 0)


def main() -> None:
    assert memory_usage.grow_segments(GPU)
    model = tiny.adapted(tiny.qwen3(hidden_size=256, intermediate_size=512, head_dim=64).bfloat16()).to(GPU)
    forward, adapter = Forward(model, GPU), Adapter(model)
    with tempfile.TemporaryDirectory() as folder:
        data = random_dataset(Path(folder) / "data", 2000, vocab=12, longest=500)
    row = packed_row(data, range(1500))
    found = {"error": "", "hint": ""}
    try:
        memory_probe.probe(Config(gradient_checkpointing="false"), forward, adapter, data, row)
    except TrainingError as error:
        found = {"error": str(error), "hint": str(error.hint)}
    segments = [s["is_expandable"] for s in torch.cuda.memory_snapshot()]
    print(json.dumps({**found, "segments": len(segments), "all_expandable": all(segments)}))


if __name__ == "__main__":
    main()
