"""Every Triton program, interpreted, gives what its formula in plain torch gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qlora_fast.model.kernels import adamw, cross_entropy, launch, nf4, rms_norm, rope, swiglu
from qlora_fast.model.kernels.registry import KERNELS, SHAPES, Kernel, Shape

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

TINY = {
    "even": Shape(4, 3, 64, 128, 4, 2, 16, 128, 2048),
    "odd": Shape(5, 7, 33, 331, 3, 1, 8, 1009, 1027),
    "one token": Shape(1, 1, 17, 5, 1, 1, 2, 3, 1),
    "no token": Shape(0, 0, 16, 32, 2, 1, 4, 11, 8),
    "a head whose half is no power of two": Shape(3, 2, 40, 24, 5, 1, 80, 50, 700),
    "more than a block": Shape(2, 2, 96, 2049, 2, 2, 32, 9001, 3000),
}
CASES = [pytest.param(k, d, id=f"{k.name}, {str(d).removeprefix('torch.')}") for k in KERNELS for d in DTYPES]


def relative(ours: Tensor, theirs: Tensor) -> float:
    if not theirs.numel():
        return 0.0
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-30))


def check(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """16 bits are equal but for a rounding that falls the other way in the last bit; 32 bits to a few roundings."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.isfinite().all()
        assert relative(a, b) < (3e-6 if a.dtype == torch.float32 else 1e-3)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize(("kernel", "dtype"), CASES)
def test_it_gives_what_the_formula_gives(kernel: Kernel, dtype: torch.dtype, shape: str) -> None:
    torch.manual_seed(3)
    inputs = kernel.inputs(TINY[shape], dtype, CPU)
    other = copy.deepcopy(inputs)
    check(kernel.run(**inputs), kernel.reference(**other))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_a_case_is_one_launch_and_moves_no_less_than_its_tensors(kernel: Kernel) -> None:
    with launch.recorded() as launches:
        kernel.run(**kernel.inputs(SHAPES["0.6B"], torch.bfloat16, torch.device("meta")))
    (one,) = launches
    tensors = {id(t): t for t in one.arguments.values() if isinstance(t, Tensor)}.values()
    held = sum(t.nbytes for t in tensors)
    assert held * 0.5 < kernel.moved(SHAPES["0.6B"], 2) <= 2.1 * held


def test_every_program_has_a_case() -> None:
    modules = (adamw, cross_entropy, nf4, rms_norm, rope, swiglu)
    programs = {p.name for m in modules for p in vars(m).values() if isinstance(p, launch.Program)}
    with launch.recorded() as launches:
        for kernel in KERNELS:
            kernel.run(**kernel.inputs(TINY["even"], torch.bfloat16, CPU))
    assert {one.program.name for one in launches} == programs


def test_a_program_on_a_cpu_asks_for_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    fresh = launch.Program(rms_norm.FORWARD.body)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        fresh.launch((1,), {"x": torch.zeros(1)}, {})


# ── through autograd ──

FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = {
    "rms_norm": (
        lambda x: rms_norm.rms_norm(x, _weight(x), 1e-6),
        lambda x: rms_norm.reference(x, _weight(x), 1e-6),
        [(2, 3, 40)],
    ),
    "swiglu": (swiglu.swiglu, swiglu.reference, [(3, 50), (3, 50)]),
    "rope": (
        lambda q, k: rope.rope(q, k, *_tables(q), None),
        lambda q, k: rope.reference(q, k, *_tables(q), None),
        [(2, 5, 4, 8), (2, 5, 2, 8)],
    ),
    "qk_norm_rope": (
        lambda q, k: rope.rope(q, k, *_tables(q), rope.Norms(_weight(q), _weight(k) + 1, 1e-6)),
        lambda q, k: rope.reference(q, k, *_tables(q), rope.Norms(_weight(q), _weight(k) + 1, 1e-6)),
        [(2, 5, 4, 8), (2, 5, 2, 8)],
    ),
}


def _weight(x: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, x.shape[-1]).to(x.dtype)


def _tables(q: Tensor) -> tuple[Tensor, Tensor]:
    """For a batch of padded rows that share their positions."""
    angle = torch.arange(q.shape[1])[:, None] * torch.linspace(0.01, 2.0, q.shape[-1] // 2)[None]
    both = torch.cat([angle, angle], -1)[None]
    return both.cos().to(q.dtype), both.sin().to(q.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradients_are_those_of_autograd(name: str, dtype: torch.dtype) -> None:
    ours, theirs, shapes = FUNCTIONS[name]
    torch.manual_seed(1)
    # Not contiguous, as a projection's output is after a transpose.
    leaves = [torch.randn(*s[::-1]).permute(*range(len(s) - 1, -1, -1)).to(dtype).requires_grad_() for s in shapes]
    results = []
    for function in (ours, theirs):
        out = function(*leaves)
        outs = out if isinstance(out, tuple) else (out,)
        torch.manual_seed(2)
        upstream = [torch.randn(o.shape).to(dtype) for o in outs]
        grads = torch.autograd.grad(outs, leaves, upstream)
        results.append((*(o.detach() for o in outs), *grads))
    check(*results)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_is_the_slope(name: str) -> None:
    ours, _, shapes = FUNCTIONS[name]
    torch.manual_seed(4)
    leaves = [torch.randn(s, dtype=torch.float64).float().requires_grad_() for s in shapes]

    def total() -> Tensor:
        out = ours(*leaves)
        outs = out if isinstance(out, tuple) else (out,)
        return sum(((o * torch.cos(torch.arange(o.numel()).view_as(o))).double().sum() for o in outs), torch.zeros(()))

    grads = torch.autograd.grad(total(), leaves)
    for leaf, grad in zip(leaves, grads, strict=True):
        direction = torch.randn_like(leaf)
        with torch.no_grad():
            leaf += 1e-2 * direction
            high = total()
            leaf -= 2e-2 * direction
            low = total()
            leaf += 1e-2 * direction
        assert float((high - low) / 2e-2) == pytest.approx(float((grad * direction).sum()), rel=2e-3, abs=2e-3)


# ── what is special to one of them ──


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_is_torchs_for_large_ids_and_extreme_logits(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    logits = torch.randn(6, 151_936).mul_(4).to(dtype)
    logits[1, 151_935], logits[2] = 60.0, -60.0
    targets = torch.tensor([151_935, 151_935, 0, 8191, 8192, 77])
    exact = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    wide = logits.double().requires_grad_()
    torch.nn.functional.cross_entropy(wide, targets, reduction="sum").backward()
    losses = cross_entropy.cross_entropy(logits, targets)
    assert wide.grad is not None
    torch.testing.assert_close(losses.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.double(), wide.grad, rtol=1e-2 if dtype != torch.float32 else 1e-4, atol=1e-6)


@pytest.mark.parametrize("run", [cross_entropy.cross_entropy, cross_entropy.reference])
def test_a_row_that_is_not_learned_from_gives_zero_whatever_it_holds(run: Callable[..., Tensor]) -> None:
    logits = torch.randn(4, 50)
    logits[1], logits[3] = torch.nan, torch.inf
    before = logits.clone()
    losses = run(logits, torch.tensor([3, -100, 4, -1]))
    assert losses[[1, 3]].tolist() == [0, 0]
    assert not logits[[1, 3]].any()
    assert losses.isfinite().all()
    assert logits.isfinite().all()
    torch.testing.assert_close(losses[[0, 2]], run(before[[0, 2]], torch.tensor([3, 4])))


@pytest.mark.parametrize("run", [cross_entropy.cross_entropy, cross_entropy.reference])
@pytest.mark.parametrize("place", [0, 8200, 8999])
def test_a_logit_that_is_not_a_number_makes_the_loss_none(run: Callable[..., Tensor], place: int) -> None:
    logits = torch.randn(2, 9000)
    logits[1, place] = torch.nan
    losses = run(logits, torch.tensor([3, 3]))
    assert losses.isfinite().tolist() == [True, False]
    assert logits[0].isfinite().all()


def test_without_a_gradient_the_logits_stay() -> None:
    logits = torch.randn(3, 20)
    before = logits.clone()
    losses = cross_entropy.cross_entropy(logits, torch.tensor([1, 2, 3]), gradient=False)
    assert torch.equal(logits, before)
    assert torch.equal(losses, cross_entropy.cross_entropy(logits, torch.tensor([1, 2, 3])))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(97, 192), (64, 64), (3, 64), (256, 320)])
def test_nf4_is_equal_to_bitsandbytes_bit_for_bit(dtype: torch.dtype, nested: bool, shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(6)
    packed, state = functional.quantize_4bit(
        torch.randn(shape).to(dtype), quant_type="nf4", compress_statistics=nested, blocksize=64
    )
    theirs = functional.dequantize_4bit(packed, state)
    assert nf4.fits(state)
    assert torch.equal(nf4.dequantize(packed, state), theirs)
    assert torch.equal(nf4.reference(packed, state), theirs)


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
def test_nf4_reads_bytes_that_are_stored_as_other_numbers(storage: torch.dtype) -> None:
    """``bnb_4bit_quant_storage``, for bases that were to be shared out by FSDP."""
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(torch.randn(16, 64), quant_type="nf4", quant_storage=storage)
    assert packed.dtype == storage
    theirs = functional.dequantize_4bit(packed.view(torch.uint8), state)
    assert torch.equal(nf4.dequantize(packed, state), theirs)
    assert torch.equal(nf4.reference(packed, state), theirs)


def test_nf4_takes_no_other_format() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    assert not nf4.fits(functional.quantize_4bit(torch.randn(64, 64), quant_type="fp4")[1])


@pytest.mark.parametrize("run", [adamw.update, adamw.reference])
@pytest.mark.parametrize("limit", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_torchs(run: Callable[..., None], limit: float, decay: float) -> None:
    torch.manual_seed(7)
    start = torch.randn(700)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=decay, fused=True)
    settings = adamw.Settings((0.9, 0.999), 1e-8, decay, limit)
    vectors = adamw.Vectors(
        start.clone(), torch.zeros(700), torch.zeros(700), torch.zeros(700), torch.empty(700).half()
    )
    for step in range(1, 6):
        gradient = torch.randn(700)
        norm = torch.linalg.vector_norm(gradient)
        theirs.grad = gradient * ((limit / (norm + 1e-6)).clamp(max=1.0) if limit else 1.0)
        optimizer.step()
        vectors.gradient.copy_(gradient)
        powers = torch.tensor([0.9**step, 0.999**step], dtype=torch.float64)
        run(vectors, norm, torch.tensor(1e-2), powers, settings)
        assert not vectors.gradient.any()
    assert relative(vectors.weights - start, theirs.detach() - start) < 2e-6
    assert torch.equal(vectors.seen, vectors.weights.half())


@pytest.mark.parametrize("run", [adamw.update, adamw.reference])
@pytest.mark.parametrize("norm", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_but_itself(run: Callable[..., None], norm: float) -> None:
    before = torch.randn(3, 40)
    vectors = adamw.Vectors(
        before[0].clone(), torch.full((40,), norm), before[1].clone(), before[2].clone(), torch.zeros(40)
    )
    run(
        vectors,
        torch.tensor(norm),
        torch.tensor(0.1),
        torch.tensor([0.9, 0.999]).double(),
        adamw.Settings((0.9, 0.999), 1e-8, 0.1, 1.0),
    )
    assert torch.equal(torch.stack([vectors.weights, vectors.mean, vectors.square]), before)
    assert torch.equal(vectors.seen, before[0])
    assert not vectors.gradient.any()
