"""Layers in groups give what PEFT gives one at a time, and add their gradients where they belong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from qlora_fast.model import projections
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.patch import patch
from qlora_fast.model.projections import Projections

X = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))


def group(*names: str, layer: int = 0, **spec: Any) -> tuple[nn.Module, list[Any]]:
    """A tiny model with an adapter, and some of its layers."""
    model = tiny.adapted(tiny.qwen3(), **spec)
    return model, [m for n, m in model.named_modules() if any(n.endswith(f"layers.{layer}.{name}") for name in names)]


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def pefts(layers: list[Any], x: Tensor) -> list[Tensor]:
    """By PEFT's own arithmetic."""
    kept = [dict(layer.lora_variant) if hasattr(layer, "lora_variant") else None for layer in layers]
    for layer in layers:
        getattr(layer, "lora_variant", {}).clear()
    out = [layer(x) for layer in layers]
    for layer, variants in zip(layers, kept, strict=True):
        if variants is not None:
            layer.lora_variant.update(variants)
    return out


def gradients(outs: Any, x: Tensor, layers: list[Any]) -> list[Tensor]:
    torch.manual_seed(5)
    leaves = [x, *(p for layer in layers for p in layer.parameters() if p.requires_grad)]
    return list(torch.autograd.grad(outs, leaves, [torch.randn(o.shape) for o in outs]))


def close(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert torch.linalg.vector_norm(a - b) <= 1e-5 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("names", [QKV, ("mlp.gate_proj", "mlp.up_proj"), QKV[:1]])
@pytest.mark.parametrize("flat", [False, True])
def test_a_group_gives_pefts_values_and_gradients(names: tuple[str, ...], flat: bool) -> None:
    model, layers = group(*names)
    if flat:
        Adapter(model)
        for parameter in model.parameters():
            parameter.grad = None
    x = X.clone().requires_grad_()
    ours = Projections(layers)(x)
    theirs = pefts(layers, x)
    close(ours, theirs)
    close(gradients(ours, x, layers), gradients(theirs, x, layers))


@pytest.mark.parametrize("rank", [4, 8])
def test_gradients_are_added_into_the_flat_vector_by_the_products(rank: int) -> None:
    # Of rank 8 the A of a group lie one after the other, of rank 4 there are gaps between them.
    model, layers = group(*QKV, rank=rank)
    adapter = Adapter(model)
    a = [layer.lora_A["default"].weight for layer in layers]
    assert (projections._in_one_piece(a) is not None) == (rank == 8)
    for start in (0.0, 3.0):
        adapter.gradient.fill_(start)
        adapters_grads = [p.grad for p in model.parameters() if p.requires_grad]
        x = X.clone().requires_grad_()
        sum(out.square().sum() for out in Projections(layers)(x)).backward()
        assert all(
            p.grad is g for p, g in zip((p for p in model.parameters() if p.requires_grad), adapters_grads, strict=True)
        )
        ours, own_x = adapter.gradient.clone(), x.grad
        adapter.gradient.fill_(start)
        x = X.clone().requires_grad_()
        sum(out.square().sum() for out in pefts(layers, x)).backward()
        close([ours, own_x], [adapter.gradient, x.grad])


def test_a_parameter_with_a_hook_gets_its_gradient_from_autograd() -> None:
    model, layers = group(*QKV)
    adapter = Adapter(model)
    seen: list[Tensor] = []
    layers[1].lora_A["default"].weight.register_hook(seen.append)
    layers[2].lora_B["default"].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad))
    sum(out.square().sum() for out in Projections(layers)(X)).backward()
    ours = adapter.gradient.clone()
    assert len(seen) == 2
    adapter.gradient.zero_()
    sum(out.square().sum() for out in pefts(layers, X)).backward()
    close([ours], [adapter.gradient])


def test_other_weights_in_the_same_place_are_seen() -> None:
    model, layers = group(*QKV, rank=8)
    one = Projections(layers)
    Adapter(model)
    one(X)
    Adapter(model)
    for layer in layers:
        layer.lora_A["default"].weight.data.normal_()
    close(one(X), pefts(layers, X))


@pytest.mark.parametrize("without", ["one layer", "any layer"])
def test_layers_without_an_adapter_belong_to_a_group_too(without: str) -> None:
    target = ["q_proj", "v_proj"] if without == "one layer" else ["o_proj"]
    model = add_lora(tiny.qwen3(attention_bias=True), LoraSpec(4, 8, target=target), seed=0)
    attention = next(m for n, m in model.named_modules() if n.endswith("layers.1.self_attn"))
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]  # type: ignore[union-attr]
    for layer in layers:
        if hasattr(layer, "lora_B"):
            nn.init.normal_(layer.lora_B["default"].weight)
    x = X.clone().requires_grad_()
    ours, theirs = Projections(layers).run(x), pefts(layers, x)
    assert ours is not None
    close(ours, theirs)
    close(gradients(ours, x, layers), gradients(theirs, x, layers))


def test_a_frozen_input_gets_no_gradient() -> None:
    _, layers = group(*QKV)
    outs = Projections(layers)(X)
    sum(out.sum() for out in outs).backward()
    assert layers[0].lora_B["default"].weight.grad is not None


def test_no_token_and_one_token() -> None:
    model, layers = group(*QKV)
    adapter = Adapter(model)
    for tokens in (0, 1):
        x = X[:1, :tokens].clone().requires_grad_()
        outs = Projections(layers)(x)
        close(outs, pefts(layers, x))
        sum(out.sum() for out in outs).backward()
        assert x.grad is not None
        assert adapter.gradient.isfinite().all()


@pytest.mark.parametrize(
    "how", ["dropout", "disabled", "merged", "dora", "another adapter", "float adapters", "cleared"]
)
def test_what_is_not_plain_is_left_to_peft(how: str) -> None:
    if how == "dora":
        model = add_lora(tiny.qwen3(), LoraSpec(4, 8, dora=True), seed=0)
    else:
        model = tiny.adapted(tiny.qwen3(), dropout=0.5 if how == "dropout" else 0.0)
    attention: Any = next(m for n, m in model.named_modules() if n.endswith("layers.0.self_attn"))
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    x = X
    match how:
        case "disabled":
            model.disable_adapter_layers()  # type: ignore[operator]
        case "merged":
            layers[1].merged_adapters.append("default")  # as after a merge
        case "another adapter":
            model.add_adapter("more", copy.deepcopy(model.peft_config["default"]))  # type: ignore[operator, index]
            model.set_adapter("more")  # type: ignore[operator]
        case "float adapters":
            for layer in layers:
                layer.base_layer.bfloat16()
            x = X.bfloat16()
        case "cleared":
            layers[0].lora_variant.clear()
    assert Projections(layers).run(x) is None
    torch.manual_seed(3)
    ours = Projections(layers)(x)
    torch.manual_seed(3)
    assert all(torch.equal(a, layer(x)) for a, layer in zip(ours, layers, strict=True))


def test_dropout_of_one_layer_is_pefts() -> None:
    model, layers = group(QKV[0], dropout=0.4)
    x = X.clone().requires_grad_()
    torch.manual_seed(8)
    ours = Projections(layers).run(x)
    assert ours is not None
    torch.manual_seed(8)
    theirs = pefts(layers, x)
    close(ours, theirs)
    close(gradients(ours, x, layers), gradients(theirs, x, layers))
    model.eval()
    close(Projections(layers)(x), pefts(layers, x))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_copy_of_a_model_computes_with_its_own_weights(checkpointing: bool) -> None:
    ids = torch.randint(0, tiny.VOCAB, (1, 7), generator=torch.Generator().manual_seed(0))
    model = add_lora(tiny.qwen3(), LoraSpec(4, 8), seed=0, checkpointing=checkpointing)
    patch(model, kernels=False)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.mul_(1.5)
    assert not torch.allclose(model(ids, use_cache=False).logits, other(ids, use_cache=False).logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(ids, use_cache=False).logits, other(ids, use_cache=False).logits)


def test_a_layer_is_one_graph() -> None:
    model = tiny.adapted(tiny.llama())
    patch(model, kernels=False)
    Adapter(model)
    layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.mlp"))
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = X.clone().requires_grad_()
    out = compiled(x)
    close([out], [layer(x)])
    close(torch.autograd.grad(out.sum(), [x]), torch.autograd.grad(layer(x).sum(), [x]))
