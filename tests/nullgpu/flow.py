"""A program for the null GPU: whole runs through the command line, in one process because torch is slow to import.

    python tests/nullgpu/flow.py FOLDER KIND NUMBERS CHECKPOINTING [KIND NUMBERS CHECKPOINTING …]

Each run trains, evaluates, saves, resumes from its first checkpoint, merges and chats. Prints one JSON line a run.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

import tiny  # noqa: E402

DATA = HERE.parent / "data"
SETTINGS: dict[str, dict[str, Any]] = {
    "auto": {},
    "bf16": {"bf16": True},
    "fp16": {"fp16": True},
    "fp32": {"dtype": "fp32"},
    "nf4": {"quantization_bit": 4},
    "int8": {"quantization_bit": 8},
    "away": {
        "bf16": True,
        "offload_base": True,
        "quantization_bit": 4,
        "quantization_type": "fp4",
        "double_quantization": False,
        "lora_target": "lm_head,q_proj",
        "additional_target": "input_layernorm",
        "lora_dropout": 0.1,
        "neftune_noise_alpha": 5,
    },
}
WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "max_position_embeddings": 2048}


def model_folder(folder: Path, kind: str) -> Path:
    """A tiny model with the test tokenizer, as a user has it."""
    tokenizer = DATA / "tokenizer" / "tokenizer.json"
    vocabulary = 1 + max(Tokenizer.from_file(str(tokenizer)).get_vocab().values())
    tiny.save(tiny.MODELS[kind](vocab_size=vocabulary, **WIDE), folder)
    shutil.copy(tokenizer, folder)
    template = (DATA / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")
    settings = {"eos_token": "<|im_end|>", "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def command(*words: object) -> None:
    """One call of qlora-fast; what it prints goes to stderr, so that stdout stays JSON lines."""
    from contextlib import redirect_stdout

    from qlora_fast.cli import cli

    with redirect_stdout(sys.stderr):
        cli.main([str(word) for word in words], standalone_mode=False)


def whole_run(folder: Path, kind: str, numbers: str, checkpointing: bool) -> dict[str, Any]:
    """Train, resume, merge, chat. Returns what can be judged without numbers."""
    model = folder / kind
    if not model.exists():
        model_folder(model, kind)
    data = folder / "data.json"
    if not data.exists():
        rows = [{"instruction": f"What is {n}?", "output": f"{n} is a number. " * (n % 7 + 1)} for n in range(40)]
        data.write_text(json.dumps(rows), encoding="utf-8")
    output = folder / f"{kind}-{numbers}-{checkpointing}"
    settings = {
        "model_name_or_path": model, "dataset": data, "output_dir": output, "lora_rank": 4, "val_size": 8,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 4, "save_steps": 2,
        "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1, "template": "qwen3", "plot_loss": False,
        "gradient_checkpointing": checkpointing, "prepared_dir": folder / "prepared",
        **SETTINGS[numbers],
    }  # fmt: skip
    config = folder / "config.json"
    config.write_text(json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}))
    command("train", config)
    first = json.loads((output / "trainer_state.json").read_text())
    shutil.rmtree(output / "checkpoint-4")
    command("train", config, "resume_from_checkpoint=true")
    again = json.loads((output / "trainer_state.json").read_text())
    if numbers in ("bf16", "auto"):
        command("merge", output, "--out", folder / f"merged-{output.name}")
    command("chat", output, "--max-new-tokens", 3, "--prompt", "What is 3?")
    return {
        "kind": kind, "numbers": numbers, "checkpointing": checkpointing, "steps": [first["global_step"], again["global_step"]],
        "run": json.loads((output / "run.json").read_text()),
    }  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    runs = iter(sys.argv[2:])
    for kind, numbers, checkpointing in zip(runs, runs, runs, strict=True):
        print(json.dumps(whole_run(folder, kind, numbers, checkpointing == "ckpt")), flush=True)
    assert torch.cuda.is_initialized()


if __name__ == "__main__":
    main()
