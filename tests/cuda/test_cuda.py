"""What only an NVIDIA GPU can show. ``make gpu``, or ``pytest -m cuda tests/cuda``.

Bounds: bf16 has 8 bits of precision, and two kernels add up in different orders. Outputs of one attention are held to
2 % and gradients of a whole model to 5 %, relative to their norm; a contaminated row is off by 50 % and more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

import tiny
from prepared import random_dataset
from qlora_fast.config import Config
from qlora_fast.data.batch import Row, packed_row, padded_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import PlanOptions, epoch_plan
from qlora_fast.data.rung import ladder, row_sizes
from qlora_fast.errors import TrainingError
from qlora_fast.model.attention import Borders, packed_attention
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.varlen import path_for
from qlora_fast.train import checkpoint, memory_probe
from qlora_fast.train.forward import Forward
from qlora_fast.train.graphs import CudaRecorder, Graphs
from qlora_fast.train.isolation import check_isolation
from qlora_fast.train.trainer import Trainer
from tiny_run import losses, tiny_run

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GPU = torch.device("cuda", 0)
LENGTHS = (7, 190, 64, 1, 333, 128)


@pytest.fixture(autouse=True)
def _exact_fp32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("cuda") / "p", 40, vocab=12, longest=80)


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().float(), b.detach().float()
    return float((a - b).norm() / b.norm())


def borders() -> tuple[int, ...]:
    return (0, *torch.tensor(LENGTHS).cumsum(0).tolist())


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(("heads", "groups", "width"), [(16, 8, 128), (4, 4, 64), (9, 3, 64)])
def test_varlen_attention_is_sdpa_of_each_sample(heads: int, groups: int, width: int, window: int | None) -> None:
    path = path_for(GPU, torch.bfloat16, width)
    if torch.cuda.get_device_capability(GPU)[0] < 8:
        assert path.kernel is None, "FlashAttention has no kernels for this GPU"
        pytest.skip(str(path))
    assert path.kernel is not None, path.why
    generator = torch.Generator(GPU).manual_seed(0)
    shapes = [(1, h, sum(LENGTHS), width) for h in (heads, groups, groups)]
    tensors = [torch.randn(s, generator=generator, device=GPU, dtype=torch.bfloat16) for s in shapes]
    weight = torch.randn(1, sum(LENGTHS), heads, width, generator=generator, device=GPU, dtype=torch.bfloat16)
    results = []
    for cu in (torch.tensor(borders(), dtype=torch.int32, device=GPU), None):  # None: no varlen, one sdpa a sample
        own = [t.clone().requires_grad_() for t in tensors]
        out, _ = packed_attention(
            nn.Identity(), *own, None, scaling=width**-0.5, sliding_window=window,
            cu_seq_lens_q=cu, max_length_q=max(LENGTHS), borders=Borders(borders()),
        )  # fmt: skip
        (out * weight).sum().backward()
        results.append([out, *(t.grad for t in own)])
    for ours, reference in zip(*results, strict=True):
        assert ours is not None
        assert reference is not None
        assert relative(ours, reference) < 2e-2


def gradient(model: nn.Module, adapter: Adapter, rows: list[Row]) -> Tensor:
    forward = Forward(model, GPU)
    adapter.publish()
    for row in rows:
        (forward.loss_sum(row) / sum(len(r.targets) for r in rows)).backward()
        adapter.collect()
    return adapter.gradient.clone()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("kind", tiny.MODELS)
def test_packed_rows_have_the_gradient_of_padded_ones(
    data: PreparedDataset, kind: str, dtype: torch.dtype, bound: float
) -> None:
    model = tiny.adapted(tiny.MODELS[kind](hidden_size=64, intermediate_size=128).to(dtype)).to(GPU)
    adapter = Adapter(model)
    padded = gradient(model, adapter, [padded_row(data, range(8))])
    assert relative(gradient(model, adapter, [packed_row(data, range(8))]), padded) < bound
    assert (
        relative(gradient(model, adapter, [packed_row(data, [5, 1, 7]), packed_row(data, [0, 2, 3, 4, 6])]), padded)
        < bound
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_samples_are_isolated(data: PreparedDataset, dtype: torch.dtype) -> None:
    model = tiny.adapted(tiny.qwen3().to(dtype)).to(GPU)
    check_isolation(Forward(model, GPU), data, packed_row(data, range(12)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_learns_what_the_cpu_learns(data: PreparedDataset, dtype: torch.dtype) -> None:
    host = tiny_run(data, updates=30)
    gpu = tiny_run(data, updates=30, model=tiny.adapted(tiny.qwen3().to(dtype), warm=False), device=GPU)
    host.run()
    gpu.run()
    assert losses(gpu)[-1] == pytest.approx(losses(host)[-1], rel=0.05 if dtype == torch.bfloat16 else 1e-3)


def test_an_update_never_waits_for_the_device(data: PreparedDataset) -> None:
    trainer = tiny_run(data, model=tiny.adapted(tiny.qwen3().bfloat16(), warm=False), device=GPU)
    plan, _ = trainer._update_of(1)
    trainer._step(plan, 0, 1)  # the first one loads kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._step(plan, 1, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_update_that_is_not_finite_is_skipped_there_and_named_at_the_next_log_step(data: PreparedDataset) -> None:
    def poison(trainer: Trainer) -> None:
        if trainer.progress.update == 4:
            poison.before = trainer.adapter.weights.clone()  # type: ignore[attr-defined]
            with torch.no_grad():
                trainer.forward.model.get_input_embeddings().weight.fill_(torch.inf)  # type: ignore[operator]

    trainer = tiny_run(data, device=GPU, logging_steps=4, on_update=poison)
    with pytest.raises(TrainingError, match="not finite in update 5"):
        trainer.run()
    assert trainer.progress.update == 8
    assert torch.equal(trainer.adapter.weights, poison.before)  # type: ignore[attr-defined]


def test_four_bits_train_and_the_adapter_loads_again(data: PreparedDataset, tmp_path: Path) -> None:
    folder = tiny.save(tiny.qwen3(hidden_size=64, intermediate_size=128, head_dim=16), tmp_path / "base")

    def base() -> nn.Module:
        return load_base(str(folder), dtype=torch.bfloat16, device=GPU, quantization=Quantization())

    run = tiny_run(
        data, tmp_path / "run", model=add_lora(base(), LoraSpec(8, 16), seed=0), updates=30, lr=1e-2, save_every=15,
        eval_every=10, device=GPU,
    )  # fmt: skip
    run.run()
    assert losses(run)[-1] < losses(run)[0] - 0.5
    again = PeftModel.from_pretrained(base(), str(tmp_path / "run" / "checkpoint-30")).eval()
    ids = torch.arange(12, device=GPU)[None]
    with torch.no_grad():
        ours = run.forward.model.eval()(ids, use_cache=False).logits
        assert relative(again(ids, use_cache=False).logits, ours) < 2e-2


def test_a_resumed_run_goes_on_with_the_same_dropout(data: PreparedDataset, tmp_path: Path) -> None:
    def run(folder: Path | None, updates: int) -> Trainer:
        trainer = tiny_run(data, folder, updates=updates, dropout=0.2, save_every=6, device=GPU)
        trainer.run()
        return trainer

    whole = run(tmp_path / "whole", 12)
    folder = tmp_path / "cut"
    folder.mkdir()
    first = checkpoint.checkpoints(tmp_path / "whole")[0]
    first.rename(folder / first.name)
    assert losses(run(folder, 12)) == pytest.approx(losses(whole), rel=1e-5)


def test_fp16_trains_with_a_scaled_loss(data: PreparedDataset) -> None:
    half = tiny_run(
        data, model=tiny.adapted(tiny.qwen3().half(), warm=False), optimizer={"scaled": True}, updates=30, device=GPU
    )
    exact = tiny_run(data, updates=30, device=GPU)
    half.run()
    exact.run()
    assert {p.dtype for p in half.adapter.parameters} == {torch.float16}
    assert losses(half)[-1] == pytest.approx(losses(exact)[-1], rel=0.05)


@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"])
def test_bitsandbytes_optimizers_train_and_go_on(data: PreparedDataset, tmp_path: Path, kind: str) -> None:
    options = {"optimizer": {"kind": kind}, "updates": 12, "save_every": 6, "device": GPU}
    whole = tiny_run(data, tmp_path / "whole", **options)  # type: ignore[arg-type]
    whole.run()
    assert losses(whole)[-1] < losses(whole)[0] - 0.3
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-6").rename(tmp_path / "cut" / "checkpoint-6")
    resumed = tiny_run(data, tmp_path / "cut", **options)  # type: ignore[arg-type]
    assert resumed.progress.update == 6
    resumed.run()
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-3)


def test_the_probe_turns_checkpointing_on_where_a_row_does_not_fit(data: PreparedDataset) -> None:
    model = tiny.adapted(tiny.qwen3().to(GPU, torch.bfloat16))
    forward, adapter, row = Forward(model, GPU), Adapter(model), packed_row(data, range(40))
    state = torch.cuda.get_rng_state()
    assert not memory_probe.probe(Config(), forward, adapter, data, row)
    assert torch.equal(state, torch.cuda.get_rng_state())
    huge = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.999), dtype=torch.uint8, device=GPU)
    with pytest.raises(TrainingError, match="out of memory"), memory_probe.explained(Config(), data, row):
        torch.empty_like(huge)


@pytest.mark.parametrize("four_bits", [False, True], ids=["bf16", "nf4"])
def test_a_run_by_replayed_graphs_learns_what_the_eager_run_learns(
    four_bits: bool, data: PreparedDataset, tmp_path: Path
) -> None:
    """Two rungs; every capture has compared its gradient with the eager one, and a longer run has the same losses."""
    if four_bits:
        pytest.importorskip("bitsandbytes")
    folder = tiny.save(tiny.qwen3(hidden_size=64, head_dim=32, intermediate_size=128), tmp_path)
    curves = []
    for graphed in (False, True):
        quantization = Quantization() if four_bits else None
        base = load_base(str(folder), dtype=torch.bfloat16, device=GPU, quantization=quantization)
        run = tiny_run(data, model=tiny.adapted(base, warm=False), updates=30, device=GPU)
        if graphed:
            plan = epoch_plan(data.lengths, data.supervised, PlanOptions("exact", 8, 2, 96, 1, 0))
            rungs = ladder(row_sizes(plan, data.lengths, data.supervised), int(data.lengths.max()))
            row_pass = Graphs(run.forward, run.adapter, rungs, CudaRecorder())
            run._run_row = row_pass
        run.run()
        curves.append(losses(run))
    found = row_pass.described()
    assert found["used"] or "takes" in str(found["reason"]), f"only its time may rule it out: {found}"
    assert curves[1] == pytest.approx(curves[0], rel=2e-2)
    assert curves[0][-1] < curves[0][0]
