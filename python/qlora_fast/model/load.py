"""The frozen base model, in 32, 16, 8 or 4 bits, and the LoRA layers that are put on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qlora_fast.config import Config
from qlora_fast.config.keys.data import PACKED
from qlora_fast.errors import ArtifactError, ConfigError, QloraFastError, first_line, is_out_of_memory
from qlora_fast.hub import connectivity, untrusted
from qlora_fast.model.attention import NAME, packable, refuse_unpackable

log = logging.getLogger(__name__)

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
"""Arguments of every ``from_pretrained``: no code of a model is run, no pickle is opened, no question is asked."""
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
    # is_bf16_supported() counts emulation: a GPU before Ampere (8.0) would compute in it, slowly.
    if wanted == "auto" and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8:
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
    refuse_unreachable(path)
    with loading(path):
        arguments: dict[str, Any] = {"dtype": dtype, **describe(path, packing)[1]}
        if quantization is not None:
            arguments |= {
                "quantization_config": bitsandbytes_config(quantization, dtype),
                "device_map": {"": str(device)},
            }
    model = from_files(path, **arguments).requires_grad_(False)
    return model if quantization is not None else model.to(device)


def from_files(path: str, **arguments: Any) -> nn.Module:
    """What transformers loads from a model's files: no code of a model is run, no pickle opened, no weight left random.

    Args:
        arguments: of ``from_pretrained``.

    Raises:
        ArtifactError: the model cannot be loaded, or its files lack a weight.
    """
    from transformers import AutoModelForCausalLM

    with loading(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, **arguments, **SAFE, output_loading_info=True)
    if missing := sorted(loaded[1]["missing_keys"]):
        raise incomplete(path, missing)
    model: nn.Module = loaded[0]
    keep_scales(model)
    return model


@contextmanager
def loading(path: str) -> Iterator[None]:
    """Report whatever a library raises in the block as an error of the model's files.

    Raises:
        ArtifactError: see :func:`unloadable`.
    """
    try:
        yield
    except QloraFastError:
        raise
    except Exception as error:  # what a library does with a hostile file is not foreseeable
        raise unloadable(path, error) from error


def describe(path: str, packing: str) -> tuple[Any, dict[str, Any]]:
    """A model's config, and the arguments with which its attention computes over packed rows where it can.

    Raises:
        ConfigError: the model cannot be packed.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if packing in PACKED:
        refuse_unpackable(config, packing)
    return config, {"attn_implementation": NAME} if packable(config) is None else {}


def refuse_unreachable(path: str) -> None:
    """Say at once that a model cannot be fetched, before transformers tries it for half a minute.

    Raises:
        ArtifactError: it is not a local folder, its weights are not in the Hub's cache, and the Hub does not answer.
    """
    if not Path(path).is_dir() and (reason := connectivity.unreachable_reason(path, *_WEIGHTS)):
        raise ArtifactError(
            f"cannot load the model `{path}`: not a local folder, not in the Hub's cache, and {reason}", hint=_CHECK
        )


def count(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; 4-bit weights count as what they stand for."""
    sizes = [(_numel(p), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def quiet_libraries() -> None:
    """Keep the chatter of the libraries out of a run's output; their errors still come through."""
    # bitsandbytes logs while it is imported, which peft does: it has to be silenced before.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for library in ("peft", "bitsandbytes", "transformers", "accelerate", "torch"):
        warnings.filterwarnings("ignore", module=rf"{library}\..*")


def _numel(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def is_quantized(module: nn.Module) -> bool:
    return type(module).__name__ in ("Linear4bit", "Linear8bitLt")


def keep_scales(model: nn.Module) -> None:
    """Let 8-bit layers that are on a CPU keep their scales under DoRA.

    PEFT puts another object with the same weight into such a layer after each use. It has no scales (the layer has them by then),
    and bitsandbytes would take that for new ones.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt" and module.weight.device.type == "cpu":
            module.register_forward_pre_hook(_keep_scales)


def _keep_scales(layer: Any, _: Any) -> None:
    if layer.weight.CB is not None and layer.weight.SCB is None:
        layer.weight.CB = None


def eval_as_trained(model: nn.Module) -> nn.Module:
    """The model without dropout, its quantized layers computing as they do in training; the same object."""
    model.eval()
    for module in model.modules():
        # bitsandbytes turns the weights of a 4-bit layer over, for good, when it runs in evaluation mode on a CPU:
        # in a layout of less precision, which training then continues with, without a gradient. An 8-bit layer rounds
        # its inputs there only in evaluation mode, and would score another model than the one that is trained.
        if is_quantized(module):
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


def incomplete(path: str, missing: Sequence[str]) -> ArtifactError:
    """The error for weights that the files do not have: transformers would leave them random."""
    others = f" and {len(missing) - 1:,} more" * (len(missing) > 1)
    if missing == ["lm_head.weight"]:
        hint = (
            "a model whose head is its embeddings has `tie_word_embeddings: true` in config.json; else fetch all files"
        )
    else:
        hint = "check that the folder is complete and that config.json is of this model"
    return ArtifactError(f"the files of `{path}` have no `{missing[0]}`{others}", hint=hint)


def unloadable(path: str, error: Exception) -> ArtifactError:
    """What to report when transformers cannot load a model.

    Raises:
        MemoryError: it is memory that ran out, and not the files.
    """
    first = first_line(error)
    if is_out_of_memory(error):
        raise MemoryError(first) from error
    if Path(path).is_dir():
        hint = "check that the folder is complete"
        config = untrusted.read_optional(Path(path) / untrusted.MODEL_CONFIG, untrusted.ModelConfig)
        method = (config.get("quantization_config") or {}).get("quant_method")
        if method not in (None, "bitsandbytes"):
            hint = (
                f"it is stored quantized by `{method}`, which transformers reads with another library; give the 16-bit model, with "
                "quantization_bit: 4 if memory is short"
            )
        elif "auto_map" in config:
            hint = "this model comes with code of its own, which is never run; a newer transformers may know the model"
        return ArtifactError(f"cannot load the model in `{path}`: {first}", hint=hint)
    return ArtifactError(
        f"cannot load the model `{path}`: not found locally or on the Hub ({first})",
        hint=_CHECK,
    )
