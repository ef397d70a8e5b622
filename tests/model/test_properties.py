"""What holds for any lengths and any shapes: packed samples are isolated, and the flat vector is the matrices."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qlora_fast.model.attention import Borders, length_step, packed_attention
from qlora_fast.model.flat_adapter import Adapter

few = settings(max_examples=30, deadline=None)

HEADS = st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)])
WIDTH = 4


def by_mask(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], window: int | None) -> Tensor:
    """The same attention with a mask over the complete row and a softmax that is written out."""
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(sample))
    back = place[:, None] - place[None, :]
    seen = (sample[:, None] == sample[None, :]) & (back >= 0) & (back < (window or len(place)))
    each = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(each, 1), value.repeat_interleave(each, 1)
    scores = query @ key.transpose(2, 3) / math.sqrt(WIDTH)
    return (scores.masked_fill(~seen, -math.inf).softmax(-1) @ value).transpose(1, 2)


@few
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    heads=HEADS,
    window=st.none() | st.integers(1, 14),
    seed=st.integers(0, 1000),
)
def test_a_packed_row_is_its_samples_with_their_gradients(
    lengths: list[int], heads: tuple[int, int], window: int | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(1, count, sum(lengths), WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    ]
    weight = torch.randn(1, sum(lengths), heads[0], WIDTH, generator=generator, dtype=torch.float64)
    borders = Borders([0, *accumulate(lengths)])
    longest = length_step(max(lengths))
    ours, _ = packed_attention(
        nn.Module(), *tensors, None, sliding_window=window, borders=borders, max_length_q=longest
    )
    expected = by_mask(*tensors, lengths, window)
    assert torch.allclose(ours, expected, atol=1e-12)
    wanted = torch.autograd.grad((expected * weight).sum(), tensors)
    found = torch.autograd.grad((ours * weight).sum(), tensors)
    for own, other in zip(found, wanted, strict=True):
        assert torch.allclose(own, other, atol=1e-12)


@given(st.integers(1, 1 << 20))
def test_the_length_that_kernels_are_told_is_never_short(longest: int) -> None:
    told = length_step(longest)
    assert max(longest, 64) <= told < max(2 * longest, 65)
    assert told.bit_count() == 1


SHAPE = st.tuples(st.integers(1, 20), st.integers(1, 20))
SHAPES = st.lists(st.tuples(SHAPE, st.booleans()), min_size=1, max_size=5)
"""Of each layer: the shape of its matrix, and whether its bias is trained."""


class Layers(nn.Module):
    """The trainable parameters of a PEFT model under the names that PEFT gives them."""

    def __init__(self, shapes: list[tuple[tuple[int, int], bool]], dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(2, 2, dtype=dtype).requires_grad_(False)

        def holding(*values: Tensor) -> nn.Module:
            module = nn.Module()
            for name, value in zip(("weight", "bias"), values, strict=False):
                module.register_parameter(name, nn.Parameter(value))
            return module

        for i, ((inner, outer), bias) in enumerate(shapes):
            layer, a, b = nn.Module(), nn.Module(), nn.Module()
            down, up = torch.randn(2, inner, generator=generator), torch.randn(outer, 2, generator=generator)
            a.add_module("default", holding(down))
            b.add_module("default", holding(up, torch.randn(outer, generator=generator)) if bias else holding(up))
            layer.add_module("lora_A", a)
            layer.add_module("lora_B", b)
            self.add_module(f"layer{i}", layer)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding


@few
@given(shapes=SHAPES, dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 1000))
def test_the_flat_vector_is_the_matrices_and_back(
    shapes: list[tuple[tuple[int, int], bool]], dtype: torch.dtype, seed: int
) -> None:
    model = Layers(shapes, dtype, seed)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    adapter = Adapter(model)
    saved = adapter.tensors()
    assert {name.replace(".default", ""): value.tolist() for name, value in before.items()} == {
        name: value.tolist() for name, value in saved.items()
    }
    assert len(adapter) == sum(value.numel() for value in before.values())
    assert [g.start for g in adapter.groups[1:]] == [g.end for g in adapter.groups[:-1]]
    assert (adapter.groups[0].start, adapter.groups[-1].end) == (0, len(adapter.weights))
    other_model = Layers(shapes, dtype, seed + 1)
    other = Adapter(other_model)
    other.load(saved, "here")
    assert torch.equal(other.weights, adapter.weights)
    for name, parameter in other_model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == dtype
            assert torch.equal(parameter, before[name].to(dtype)), name


@few
@given(
    shapes=SHAPES,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    rows=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_the_gradients_of_all_rows_land_in_the_flat_vector(
    shapes: list[tuple[tuple[int, int], bool]], dtype: torch.dtype, rows: int, seed: int
) -> None:
    model = Layers(shapes, dtype, seed)
    adapter = Adapter(model)
    generator = torch.Generator().manual_seed(seed)
    expected = [torch.zeros(p.shape) for p in adapter.parameters]
    for _ in range(rows):
        # Whole numbers below 128: exact in 16 bits, so any value in a wrong place shows.
        factors = [torch.randint(-99, 99, p.shape, generator=generator).to(dtype) for p in adapter.parameters]
        torch.stack([(p * f).sum() for p, f in zip(adapter.parameters, factors, strict=True)]).sum().backward()
        adapter.collect()
        expected = [total + factor.float() for total, factor in zip(expected, factors, strict=True)]
    assert float(adapter.gradient.sum()) == sum(float(total.sum()) for total in expected), (
        "nothing between the matrices"
    )
    start = 0
    for total in expected:
        assert start % 256 == 0
        assert torch.equal(adapter.gradient[start : start + total.numel()].view(total.shape), total)
        start += -(-total.numel() // 256) * 256
    assert start == len(adapter.gradient)
    adapter.weights.add_(1.0)
    adapter.publish()
    assert not adapter.gradient.any()
    for parameter, name in zip(adapter.parameters, adapter.names, strict=True):
        assert parameter.grad is not None
        assert not parameter.grad.any()
        assert torch.equal(parameter.detach(), adapter.tensors()[name].to(dtype))
