"""A program for the null GPU: a model that is larger than a GPU, asked and evaluated.

    python tests/nullgpu/placed.py FOLDER [BITS …]

It is trained where it fits. Then most of each GPU's memory is allocated, so that the base fits on two together and not on one. Prints a
JSON line for each kind of base (16 bits, or quantized): where each part of the model was, and what was answered.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"  # it would be as large as a layer here

import torch
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

import tiny  # noqa: E402
from nullgpu.flow import SETTINGS, command, model_folder  # noqa: E402
from qlora_fast.chat import commands, generate, placing, session  # noqa: E402
from qlora_fast.model.memory_estimate import Method  # noqa: E402
from qlora_fast.model.shapes import shape_of  # noqa: E402
from qlora_fast.model.sharded_memory import base_bytes  # noqa: E402

LARGE = {"hidden_size": 512, "intermediate_size": 1536, "head_dim": 64, "num_hidden_layers": 12}
KINDS = {None: "bf16", 4: "nf4", 8: "int8"}


@contextmanager
def left_free(size: int) -> Iterator[None]:
    """Inside, each GPU has so many bytes free, as if another program had the rest."""
    torch.cuda.empty_cache()
    gpus = range(torch.cuda.device_count())
    taken = [torch.empty(torch.cuda.mem_get_info(i)[0] - size, dtype=torch.uint8, device=f"cuda:{i}") for i in gpus]
    yield
    taken.clear()


def devices_of(model: nn.Module) -> dict[str, list[int]]:
    """The GPUs of a base and of its adapter."""
    found: dict[str, set[int]] = {"base": set(), "adapter": set()}
    for name, parameter in model.named_parameters():
        found["adapter" if "lora_" in name else "base"].add(parameter.device.index)
    return {part: sorted(indices) for part, indices in found.items()}


def watched(seen: list[dict[str, Any]]) -> None:
    """Note where the models are that the commands load."""
    load, place = session.load_chat_model, placing.place_of

    def loaded(*args: Any, **options: Any) -> nn.Module:
        model = load(*args, **options)
        seen.append({**seen.pop(), **devices_of(model)})
        return model

    def placed(*args: Any) -> Any:
        seen.append({"place": place(*args)})
        return seen[-1]["place"]

    commands.load_chat_model = generate.load_chat_model = loaded
    session.place_of = placed


def end_after(steps: int) -> None:
    """Let transformers' generation end, which compares numbers on the GPU to know when."""
    from itertools import count

    from transformers import GenerationMixin

    sample = GenerationMixin._sample

    def sampled(self: Any, *args: Any, **options: Any) -> Any:
        done = count()
        self._has_unfinished_sequences = lambda *_, **__: next(done) < steps
        return sample(self, *args, **options)

    GenerationMixin._sample = sampled  # type: ignore[method-assign, assignment]


def whole_run(folder: Path, bits: int | None, seen: list[dict[str, Any]]) -> dict[str, Any]:
    run, data, model = folder / f"run-{bits}", folder / "data.json", folder / "model"
    settings = {
        "model_name_or_path": str(model), "dataset": str(data), "output_dir": str(run), "lora_rank": 4, "val_size": 4,
        "max_steps": 1, "template": "qwen3", "plot_loss": False, "prepared_dir": str(folder / "prepared"),
        **SETTINGS[KINDS[bits]],
    }  # fmt: skip
    config = folder / "config.json"
    config.write_text(json.dumps(settings))
    command("train", config)
    shape = shape_of(str(model))
    assert shape is not None
    needed = base_bytes(shape, Method(bits=bits, width=2))
    limit, answers = ("--max-new-tokens", 3), folder / f"{bits}.jsonl"
    seen.clear()
    for words in (
        ("chat", run, *limit, "--prompt", "What is 3?", *(("--quantization-bit", bits) if bits else ())),
        ("generate", run, data, *limit, "--max-samples", 5, "--batch-size", 2, "-o", answers),
        ("evaluate", run, "offload_base=true"),
    ):
        gc.collect()  # a model refers to itself
        with left_free(int(needed * 0.9)):
            command(*words)
    given = [json.loads(line)["tokens"] for line in answers.read_text(encoding="utf-8").splitlines()]
    results = json.loads((run / "eval_results.json").read_text())
    return {"bits": bits, "needed": needed, "loaded": list(seen), "answers": given, "eval_samples": results["eval_samples"]}  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    tiny_model = tiny.MODELS["qwen3"]
    tiny.MODELS["qwen3"] = lambda **options: tiny_model(**{**options, **LARGE}).bfloat16()
    model_folder(folder / "model", "qwen3")
    rows = [{"instruction": f"What is {n}?", "output": f"{n} is a number."} for n in range(12)]
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    seen: list[dict[str, Any]] = []
    watched(seen)
    end_after(3)
    for word in sys.argv[2:] or ["16"]:
        print(json.dumps(whole_run(folder, None if word == "16" else int(word), seen)), flush=True)


if __name__ == "__main__":
    main()
