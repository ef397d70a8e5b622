"""LoRA layers on a frozen base model, through PEFT: which layers, which variant, and recomputation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qlora_fast.config.keys.model import Kernels
from qlora_fast.errors import ConfigError
from qlora_fast.model.load import is_quantized, quiet_libraries
from qlora_fast.model.patch import speed_up
from qlora_fast.model.products import EXACT, Wanted

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The adapter: W + alpha/rank · B·A on each target layer (Hu et al. 2021), and its variants.

    Attributes:
        also: modules that are trained and saved whole, beside the adapter.
        rslora: scale by alpha/√rank (Kalajdzievski 2023). dora: learn each output's length too (Liu et al. 2024).
        pissa: iterations of the decomposition that the adapter starts from, -1 for the exact one; None: B starts at 0.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    target: Sequence[str] = ("all",)
    also: Sequence[str] = ()
    rslora: bool = False
    dora: bool = False
    pissa: int | None = None


def add_lora(
    model: nn.Module,
    spec: LoraSpec,
    *,
    seed: int,
    checkpointing: bool = False,
    kernels: Kernels = "auto",
    products: Wanted = EXACT,
) -> nn.Module:
    """Put a fresh adapter on a frozen model: equal seeds give equal weights, whatever was drawn before.

    Args:
        kernels, products: see :func:`qlora_fast.model.patch.speed_up`.

    Raises:
        ConfigError: a target is not in the model, or PiSSA is asked of quantized weights.
    """
    quiet_libraries()
    from peft import LoraConfig, TaskType, get_peft_model

    start: Any = True  # the declared type spells the number of iterations as a placeholder
    if spec.pissa is not None:
        if getattr(model, "is_quantized", False):
            raise ConfigError(
                "`pissa_init` takes the base's weights apart, which needs them in 16 or 32 bits",
                hint="leave out quantization_bit, or pissa_init",
            )
        start = "pissa" if spec.pissa < 0 else f"pissa_niter_{spec.pissa}"
    alpha: Any = int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha  # declared as int, used as a number
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=alpha,
        lora_dropout=spec.dropout,
        target_modules=lora_targets(model, spec.target),
        modules_to_save=additional_targets(model, spec) or None,
        # A head that is the embedding's own weight stays so when either of them is trained whole. Adapters on them are not to be
        # tied: PEFT would not find such a one again in what it has saved.
        ensure_weight_tying=bool(_tied(model).intersection(spec.also)),
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        init_lora_weights=start,
        task_type=TaskType.CAUSAL_LM,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: nn.Module = get_peft_model(model, config)
    if checkpointing:
        recompute(adapted)  # not before: PEFT would ask for a gradient at the input
    speed_up(adapted, kernels, products)
    return adapted.train()


def recompute(model: nn.Module) -> None:
    """Keep no activations inside the layers: half of the pass again, in exchange for memory."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    # transformers asks for a gradient at the input as well, which the reentrant kind alone needs: it would be made for nothing,
    # in layers that are not trained too.
    model.disable_input_require_grads()  # type: ignore[operator]


def keep_activations(model: nn.Module) -> None:
    """The opposite of :func:`recompute`."""
    model.gradient_checkpointing_disable()  # type: ignore[operator]


def additional_targets(model: nn.Module, spec: LoraSpec) -> list[str]:
    """Names of the modules that are trained whole, checked.

    Raises:
        ConfigError: one is not in the model, is quantized, or gets an adapter as well; or nothing else has an adapter.
    """
    targets, tied = lora_targets(model, spec.target), _tied(model)
    modules = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules() if name}
    problems = {
        "is not in this model": [n for n in spec.also if n not in modules],
        "is quantized, and only frozen weights can be": [
            n for n in spec.also if n in modules and any(is_quantized(m) for m in modules[n].modules())
        ],
        "is a list of layers or the whole model, and only parts of it can be": [
            n
            for n in spec.also
            if modules.get(n) is model.get_decoder() or isinstance(modules.get(n), _LISTS)  # type: ignore[operator]
        ],
        "has an adapter already (lora_target)": [n for n in spec.also if n in targets],
        "is the weight of embedding and head, and one of them has an adapter already (lora_target)": [
            n for n in spec.also if n in tied and tied.intersection(targets)
        ],
    }
    for what, names in problems.items():
        if names:
            raise ConfigError(f"`additional_target`: `{names[0]}` {what}", hint="embed_tokens and lm_head are usual")
    _refuse_nothing_adapted(model, targets, spec.also)
    return [name for wanted in spec.also for name in _told_apart(model, wanted)]


def _refuse_nothing_adapted(model: nn.Module, targets: Sequence[str], also: Sequence[str]) -> None:
    """PEFT puts no adapter inside of a module that is trained whole.

    Raises:
        ConfigError: all targets are inside of one.
    """
    named = [(name.rsplit(".", 1)[-1], module) for name, module in model.named_modules()]
    whole = {inner for name, module in named if name in also for inner in module.modules()}
    if not any(name in targets and module not in whole for name, module in named):
        raise ConfigError(
            f"`additional_target: {', '.join(also)}` trains everything whole that `lora_target` names: no adapter is left",
            hint="name layers outside of it in lora_target, or leave additional_target out",
        )


def _tied(model: Any) -> frozenset[str]:
    """What embedding and head are called, by the last part of their names, where they are one weight."""
    if not getattr(model.config, "tie_word_embeddings", False):
        return frozenset()
    pair = (model.get_input_embeddings(), model.get_output_embeddings())
    return frozenset(name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module in pair)


def _told_apart(model: nn.Module, wanted: str) -> list[str]:
    """What to call the modules of a name so that PEFT, which looks at how names end, takes these and no others."""
    names = [name for name, _ in model.named_modules()]
    own = [name for name in names if name.rsplit(".", 1)[-1] == wanted]
    return own if any(name.endswith(wanted) and name not in own for name in names) else [wanted]


def lora_targets(model: nn.Module, wanted: Sequence[str]) -> list[str]:
    """Names of the layers that get an adapter; ``all`` is every linear layer but the head, by last name component."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    able = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}
    linear = {name: module for name, module in able.items() if isinstance(module, nn.Linear)}
    names = {name.rsplit(".", 1)[-1] for name, module in linear.items() if module is not head}
    if list(wanted) == ["all"]:
        if not names:
            raise ConfigError(
                "this model has no linear layer that can have an adapter, besides its head",
                hint="GPT-2 and its like have layers of another kind (Conv1D), which are not supported",
            )
        return sorted(names)
    known = names | {name.rsplit(".", 1)[-1] for name in able}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"`lora_target` names no layer of this model that can have an adapter: {', '.join(unknown)}",
            hint=f"it has {', '.join(sorted(known))}; or `all`",
        )
    return list(wanted)
