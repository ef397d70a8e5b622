"""Adapters on the tiny test model that visibly change what it says."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from qlora_fast import atomic_io
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.runs.adapter_card import write_card


def make_adapter(folder: Path, model_dir: Path, seed: int, system: str | None = None) -> Path:
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.random.fork_rng(devices=[]):  # equal seeds give equal adapters, whatever earlier tests drew
        torch.manual_seed(seed)
        model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    model.save_pretrained(folder)
    digest = atomic_io.sha256_of(model_dir / "tokenizer.json")
    write_card(folder, str(model_dir), Tokenizer(model_dir, "chatml", None, "<|im_end|>", system), digest)
    return folder
