"""The frozen base model, in 32, 16, 8 or 4 bits, and the LoRA layers that are put on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qlora_fast import hub
from qlora_fast.attention import NAME, packable, refuse_unpackable
from qlora_fast.config import Config
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.lora import fuse

log = logging.getLogger(__name__)

_WEIGHTS = tuple(f"{stem}{end}" for stem in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json"))
_CHECK = "check `model_name_or_path`; without network, give a local folder"


@dataclass(frozen=True, slots=True)
class Quantization:
    """Storage of the frozen weights: 4 bits (Dettmers et al. 2023) with their code book, and whether its scales are 8
    bits themselves; or the 8 bits of LLM.int8() (Dettmers et al. 2022), which knows neither."""

    kind: str = "nf4"
    double: bool = True
    bits: int = 4

    @classmethod
    def of(cls, config: Config) -> Quantization | None:
        """What a run's config asks for."""
        bits = config.quantization_bit
        return None if bits is None else cls(config.quantization_type, config.double_quantization, bits)


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


def pick_device(local_rank: int = 0) -> torch.device:
    """The GPU of this rank, or the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """bf16, fp16 or fp32; ``auto`` is bf16 on a GPU that computes in it. On a CPU fp32 is the exact choice.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if wanted == "bf16":
        return torch.bfloat16
    if wanted == "fp16":
        if device.type == "cpu":
            raise ConfigError("`fp16` needs a GPU: a CPU emulates it, slowly", hint="use bf16, or dtype: fp32")
        return torch.float16
    if wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def load_base(
    path: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    packing: str = "exact",
    quantization: Quantization | None = None,
) -> nn.Module:
    """Load a causal language model, frozen, without ever running code that came with it.

    Nothing is cast up to fp32 after loading: what is frozen stays as it was stored.

    Args:
        path: a local folder or a hub id. packing: ``exact`` and ``dense`` need a model of plain causal attention.

    Raises:
        ArtifactError: no such model, or its files are damaged.
        ConfigError: the model cannot be packed.
    """
    quiet_libraries()
    refuse_out_of_reach(path)
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path)
        if packing in ("exact", "dense"):
            refuse_unpackable(config, packing)
        arguments: dict[str, Any] = {"dtype": dtype}
        if packable(config) is None:
            arguments["attn_implementation"] = NAME
        if quantization is not None:
            arguments |= {
                "quantization_config": bitsandbytes_config(quantization, dtype),
                "device_map": {"": str(device)},
            }
        model: nn.Module = AutoModelForCausalLM.from_pretrained(path, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _explained(path, error) from error
    model.requires_grad_(False)
    return model if quantization is not None else model.to(device)


def refuse_out_of_reach(path: str) -> None:
    """Say at once that a model cannot be fetched, before transformers tries it for half a minute.

    Raises:
        ArtifactError: it is no folder here, its weights are not in the hub's cache, and the hub does not answer.
    """
    if not Path(path).is_dir() and (reason := hub.out_of_reach(path, *_WEIGHTS)):
        raise ArtifactError(
            f"cannot load the model `{path}`: no such folder here, not in the hub's cache, and {reason}", hint=_CHECK
        )


def add_lora(model: nn.Module, spec: LoraSpec, *, seed: int, checkpointing: bool = False) -> nn.Module:
    """Put a fresh adapter on a frozen model: equal seeds give equal weights, whatever was drawn before.

    Raises:
        ConfigError: a target is not in the model, or PiSSA is asked of quantized weights.
    """
    quiet_libraries()
    from peft import LoraConfig, TaskType, get_peft_model

    start: bool | str = True
    if spec.pissa is not None:
        if getattr(model, "is_quantized", False):
            raise ConfigError(
                "`pissa_init` takes the base's weights apart, which needs them in 16 or 32 bits",
                hint="leave out quantization_bit, or pissa_init",
            )
        start = "pissa" if spec.pissa < 0 else f"pissa_niter_{spec.pissa}"
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=lora_targets(model, spec.target),
        modules_to_save=additional_targets(model, spec) or None,
        # A head that is the embedding's own weight stays so when either of them is trained.
        ensure_weight_tying=tied and bool(spec.also),
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        init_lora_weights=start,
        task_type=TaskType.CAUSAL_LM,
        bias="none",
    )
    if checkpointing:
        recompute(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: nn.Module = get_peft_model(model, config)
    fuse(adapted)
    return adapted.train()


def recompute(model: nn.Module) -> None:
    """Keep no activations inside the layers: half of the pass again, in exchange for memory."""
    # The non-reentrant kind needs no gradient at the input.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]


def additional_targets(model: nn.Module, spec: LoraSpec) -> list[str]:
    """Names of the modules that are trained whole, checked.

    Raises:
        ConfigError: one is not in the model, is quantized, or gets an adapter as well.
    """
    modules = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules() if name}
    problems = {
        "is not in this model": [n for n in spec.also if n not in modules],
        "is quantized, and only frozen weights can be": [
            n for n in spec.also if n in modules and any(_is_quantized(m) for m in modules[n].modules())
        ],
        "has an adapter already (lora_target)": [n for n in spec.also if n in lora_targets(model, spec.target)],
    }
    for what, names in problems.items():
        if names:
            raise ConfigError(f"`additional_target`: `{names[0]}` {what}", hint="embed_tokens and lm_head are usual")
    return [name for wanted in spec.also for name in _told_apart(model, wanted)]


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
        return sorted(names)
    known = names | {name.rsplit(".", 1)[-1] for name in able}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"`lora_target` names no layer of this model that can have an adapter: {', '.join(unknown)}",
            hint=f"it has {', '.join(sorted(known))}; or `all`",
        )
    return list(wanted)


def count(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; 4-bit weights count as what they stand for."""
    sizes = [(_numel(p), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def quiet_libraries() -> None:
    """Keep the chatter of the libraries out of a run's output; their errors still come through."""
    # bitsandbytes speaks while it is being imported, which peft does: it has to be told before.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for library in ("peft", "bitsandbytes", "transformers", "torch"):
        warnings.filterwarnings("ignore", module=rf"{library}\..*")


def _numel(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__name__ in ("Linear4bit", "Linear8bitLt")


def eval_as_trained(model: nn.Module) -> nn.Module:
    """The model without dropout, its quantized layers computing as they do in training; the same object."""
    model.eval()
    for module in model.modules():
        # bitsandbytes turns the weights of a 4-bit layer over, for good, when it runs in evaluation mode on a CPU:
        # in a layout of less precision, which training then goes on with, without a gradient. An 8-bit layer rounds
        # its inputs there only in evaluation mode, and would score another model than the one that is trained.
        if _is_quantized(module):
            module.training = True
    return model


def bitsandbytes_config(quantization: Quantization, dtype: torch.dtype) -> Any:
    """What transformers takes to load a model quantized."""
    from transformers import BitsAndBytesConfig

    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.kind,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
    )


def _explained(path: str, error: Exception) -> ArtifactError:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if Path(path).is_dir():
        return ArtifactError(f"cannot load the model in `{path}`: {first}", hint="check that the folder is complete")
    return ArtifactError(
        f"cannot load the model `{path}`: no such folder, and not to be had from the hub ({first})",
        hint=_CHECK,
    )
