"""The chunked loss of a frozen head is torch's cross-entropy, value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qlora_fast.model.kernels.cross_entropy import reference
from qlora_fast.train import loss as loss_module
from qlora_fast.train.loss import CHUNK_BYTES, CHUNK_LOGITS, chunk_in_place, chunk_of, supervised_loss


def parts(k: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(k)
    hidden = torch.randn(k, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(53, 16, generator=generator).to(dtype)
    return hidden, weight, torch.randint(0, 53, (k,), generator=generator)


@pytest.mark.parametrize("k", [1, 7, 8, 9, 64])
@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_value_and_gradient_are_those_of_cross_entropy(k: int, chunk: int) -> None:
    hidden, weight, targets = parts(k)
    ours = supervised_loss(hidden, weight, targets, chunk)
    (ours / 3).backward()
    gradient, hidden.grad = hidden.grad, None
    plain = cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (plain / 3).backward()
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    assert gradient is not None
    assert hidden.grad is not None
    assert torch.allclose(gradient, hidden.grad, rtol=1e-5, atol=1e-6)


def test_bf16_is_summed_in_fp32() -> None:
    hidden, weight, targets = parts(64, torch.bfloat16)
    ours = supervised_loss(hidden, weight, targets, 16)
    assert ours.dtype == torch.float32
    exact = cross_entropy(hidden.float() @ weight.float().T, targets, reduction="sum")
    assert ours.item() == pytest.approx(exact.item(), rel=5e-3)


@pytest.mark.parametrize("tokens", [7, 385, 1021])
def test_the_number_of_tokens_is_not_rounded_to_16_bits(tokens: int) -> None:
    """One over it would be off by 0.3 % in bf16, and with it every gradient of the update."""
    hidden, weight, targets = parts(512, torch.bfloat16)
    torch.autograd.backward(supervised_loss(hidden, weight, targets) / tokens)
    exact = hidden.detach().double().requires_grad_()
    torch.autograd.backward(cross_entropy(exact @ weight.double().T, targets, reduction="sum") / tokens)
    assert hidden.grad is not None
    assert exact.grad is not None
    assert float(hidden.grad.double().norm() / exact.grad.norm()) == pytest.approx(1, abs=5e-4)


def test_nothing_supervised_gives_zero_and_not_nan() -> None:
    _, weight, targets = parts(0)
    source = torch.ones(3, 16, requires_grad=True)
    loss = supervised_loss(source[:0], weight, targets)
    (loss / 5).backward()
    assert loss.item() == 0
    assert source.grad is not None
    assert torch.equal(source.grad, torch.zeros(3, 16))
    hidden, weight, targets = parts(0, torch.bfloat16)
    assert supervised_loss(hidden, weight, targets).dtype == torch.float32


def test_a_trainable_head_gets_its_gradient() -> None:
    hidden, weight, targets = parts(9)
    weight.requires_grad_()
    targets[2:4] = torch.tensor([-1, -100])  # add nothing
    loss = supervised_loss(hidden, weight, targets)
    found = torch.autograd.grad(loss, [hidden, weight])
    kept = targets >= 0
    plain = cross_entropy(hidden[kept] @ weight.T, targets[kept], reduction="sum")
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for ours, expected in zip(found, torch.autograd.grad(plain, [hidden, weight]), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_without_a_gradient_none_is_computed() -> None:
    hidden, weight, targets = parts(9)
    with torch.no_grad():
        loss = supervised_loss(hidden, weight, targets)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(cross_entropy(hidden @ weight.T, targets, reduction="sum").item())


def test_logits_stay_below_the_limit_for_large_vocabularies() -> None:
    assert (CHUNK_LOGITS, CHUNK_BYTES) == (2**26, 2**28)
    assert (chunk_of(151_936), chunk_in_place(151_936, 2), chunk_in_place(151_936, 4)) == (441, 883, 441)
    assert chunk_of(10_000_000) == chunk_in_place(10_000_000, 4) == 64


@pytest.mark.parametrize(("kernels", "taken"), [(False, [4, 4, 1]), (True, [5, 4])])
def test_the_chunk_is_that_of_the_logits_that_are_made(
    kernels: bool, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(logits: Tensor, targets: Tensor, with_gradient: bool) -> Tensor:
        seen.append(len(targets))
        return reference(logits, targets, with_gradient)

    monkeypatch.setattr(loss_module, "cross_entropy" if kernels else "reference", watched)
    monkeypatch.setattr(loss_module, "chunk_of", lambda vocabulary: 4)
    monkeypatch.setattr(loss_module, "chunk_in_place", lambda vocabulary, value_bytes: 5)
    supervised_loss(*parts(9), kernels=kernels)
    assert seen == taken
