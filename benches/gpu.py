"""``make gpu``: on a machine with an NVIDIA GPU and nothing to download, the cuda tests and a throughput table.

    python -m benches.gpu [--layers 28] [--rows 512] [--packings exact dense none] [--no-rival] [--write]

The model has Qwen3-0.6B's shape and random weights; the samples have Alpaca-like lengths. Real tokens/s (pads never
count), peak memory, loss and gradient norm stand side by side: a fast run with another loss is no result.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benches import rival
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import PlanOptions, epoch_plan
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import load_base, quiet_libraries
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train.forward import Forward
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.progress import Log
from qlora_fast.train.schedule import Schedule
from qlora_fast.train.trainer import Hooks, Trainer, TrainOptions

ROOT = Path(__file__).parent.parent
SPEC = LoraSpec(rank=16, alpha=32)
SAMPLES_PER_UPDATE, BATCH, LEARNING_RATE = 32, 4, 1e-4
WARM_UP = 3
"""Updates that are trained but not timed: the first ones load kernels."""


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    tokens_per_second: float
    peak_gib: float
    updates: int
    loss: float
    grad_norm: float

    def line(self) -> str:
        return (
            f"| {self.name} | {self.tokens_per_second:,.0f} | {self.peak_gib:.1f} | {self.updates} | "
            f"{self.loss:.4f} | {self.grad_norm:.4f} |"
        )


def save_model(folder: Path, layers: int) -> str:
    """A random Qwen3-0.6B (or a shallower one), as a model folder."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    quiet_libraries()
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        max_position_embeddings=40_960,
        rope_theta=1_000_000.0,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def make_data(folder: Path, rows: int) -> PreparedDataset:
    """Samples with Alpaca-like lengths (median ~75 tokens) of random ids; the last two thirds are learned."""
    sys.path.insert(0, str(ROOT / "tests"))
    from prepared import write_prepared
    from qlora_fast.data.dataset import open_prepared

    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(75), 0.6, rows), 12, 1024).astype(int)
    samples = [(rng.integers(0, 150_000, n).tolist(), [(max(1, int(n) // 3), int(n))]) for n in lengths]
    return open_prepared(write_prepared(folder, samples))


def ours(path: str, dataset: PreparedDataset, packing: str, budget: int, device: torch.device) -> Result:
    torch.cuda.reset_peak_memory_stats()
    model = add_lora(load_base(path, dtype=torch.bfloat16, device=device), SPEC, seed=0)
    adapter = Adapter(model)
    options = PlanOptions(packing, SAMPLES_PER_UPDATE, BATCH, budget, 1, 0)
    log: list[Log] = []

    def plan(epoch: int):  # type: ignore[no-untyped-def]
        return epoch_plan(dataset.lengths, dataset.supervised, options, epoch)

    updates = len(plan(0).supervised)
    trainer = Trainer(
        Forward(model, device),
        adapter,
        AdamW(adapter, AdamWOptions(max_grad_norm=1.0)),
        Schedule("cosine", LEARNING_RATE, updates, 0),
        dataset,
        np.arange(len(dataset)),
        plan,
        TrainOptions(min(WARM_UP, updates), None, None, packed=packing in ("exact", "dense")),
        Hooks(on_log=lambda _, entry: log.append(entry), evaluate=lambda _: None, save=lambda _: None),
    )
    trainer.run()
    timed = log[1:] or log
    speed = float(np.mean([e["tokens_per_second"] for e in timed]))
    return Result(
        f"ours, packing: {packing}",
        speed,
        torch.cuda.max_memory_allocated() / 2**30,
        updates,
        log[-1]["loss"],
        log[-1]["grad_norm"],
    )


def theirs(path: str, dataset: PreparedDataset, device: torch.device) -> Result:
    from transformers import AutoModelForCausalLM

    torch.cuda.reset_peak_memory_stats()
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).requires_grad_(False).to(device)
    order = epoch_plan(dataset.lengths, dataset.supervised, PlanOptions("none", SAMPLES_PER_UPDATE, BATCH, 1024, 1, 0))
    curve = rival.train(
        add_lora(base, SPEC, seed=0),
        dataset,
        order.sample_ids,
        batch=BATCH,
        accumulation=SAMPLES_PER_UPDATE // BATCH,
        learning_rate=LEARNING_RATE,
        bf16=True,
    )
    last = curve.loss[-min(WARM_UP, len(curve.loss)) :]
    return Result(
        f"Trainer + PEFT, padded batches of {BATCH}",
        int(dataset.lengths.sum()) / curve.seconds,
        torch.cuda.max_memory_allocated() / 2**30,
        len(curve.loss),
        float(np.mean(last)),
        curve.grad_norm[-1],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a packed row")
    parser.add_argument("--packings", nargs="+", default=["exact", "dense", "none"])
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--write", action="store_true", help="append the table to BENCHMARKS.md")
    words = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU here: nothing was run. The CPU's figures are made by `make bench`.")
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "cuda", str(ROOT / "tests")], check=False)
    device = torch.device("cuda")
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(Path(folder) / "model", words.layers)
        dataset = make_data(Path(folder) / "data", words.rows)
        results = [ours(path, dataset, p, words.budget, device) for p in words.packings]
        if not words.no_rival:
            results.append(theirs(path, dataset, device))
    head = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Qwen3-0.6B shape, {words.layers} layers, LoRA r=16, bf16, {words.rows} samples, 32 an update"
    table = [
        f"\n### {head}\n",
        "| | real tokens/s | peak GiB | updates | loss | grad norm |",
        "|---|---|---|---|---|---|",
        *(r.line() for r in results),
    ]
    print("\n".join(table))
    if words.write:
        with (ROOT / "BENCHMARKS.md").open("a", encoding="utf-8") as file:
            file.write("\n".join(table) + "\n")
    sys.exit(tests.returncode)


if __name__ == "__main__":
    main()
