"""A base model loaded part by part into a source: no process ever holds it as a whole, on the host or on the device.

The model is built without weights. Then each decoder layer (and the embedding, and the head) is read, cast, quantized if it is
to be, given to the source and freed, before the next one is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.hub.resolve import local_folder
from qlora_fast.model import host
from qlora_fast.model.load import (
    Quantization,
    bitsandbytes_config,
    describe,
    is_quantized,
    loading,
    quiet_libraries,
)
from qlora_fast.model.streamed import hooks
from qlora_fast.model.streamed.quantize import quantized
from qlora_fast.model.streamed.source import Source
from qlora_fast.model.streamed.stream import Stream
from qlora_fast.model.streamed.tensor_files import TensorFiles
from qlora_fast.model.streamed.unit import Unit


def load_streamed(
    path: str,
    source: Source,
    *,
    dtype: torch.dtype,
    device: torch.device,
    packing: str = "exact",
    quantization: Quantization | None = None,
    multiple: int = 1,
    resident: Collection[str] = (),
    on_part: Callable[[nn.Module, str], None] = lambda *_: None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> nn.Module:
    """What :func:`~qlora_fast.model.load.load_base` loads, with its layers in ``source``.

    Args:
        multiple: see :class:`~qlora_fast.model.streamed.unit.Unit`.
        resident: modules, by the last part of their names, that stay on the device: those that are to be trained whole.
        on_part: called with each part while its weights are on the device, and the prefix of their names.
        progress: called with (parts done, all parts).

    Raises:
        ArtifactError: no such model, or its files are damaged or incomplete.
        ConfigError: the model cannot be packed, or not be loaded in parts.
    """
    quiet_libraries()
    folder = Path(local_folder(path))
    with loading(path):
        model, quantizer = _skeleton(str(folder), dtype, device, packing, quantization)
        loader = _Loader(model, TensorFiles(folder), quantizer, dtype, device)
        loader.refuse_missing(folder)
        _parts(model, loader, source, device, multiple, resident, on_part, progress)
    if quantizer is not None:
        quantizer.postprocess_model(model)
        model.hf_quantizer = quantizer
    loaded: nn.Module = model.requires_grad_(False).eval()
    return loaded


def _parts(
    model: Any,
    loader: _Loader,
    source: Source,
    device: torch.device,
    multiple: int,
    resident: Collection[str],
    on_part: Callable[[nn.Module, str], None],
    progress: Callable[[int, int], None],
) -> None:
    """Load the parts one by one, and let them come by a stream."""
    names = {module: name for name, module in model.named_modules()}
    parts = hooks.parts_of(model)
    tied = parts[-1].weight is parts[0].weight
    stay = _staying(names, parts, resident, tied=tied)
    units: list[Unit] = []
    places: list[int] = []
    streamed: list[nn.Module] = []
    layers: list[int] = []
    for number, part in enumerate(parts):
        if part in stay:
            continue
        if 0 < number < len(parts) - 1:
            layers.append(len(places))
        streamed.append(part)
        if tied and part is parts[-1]:
            part.weight = parts[0].weight
            places.append(0)
            continue
        loader.quantize(part, names[part], stay)
        unit = Unit(names[part], [part], multiple=multiple, device=device, skip=stay)
        loader.fill(part, names[part], stay)
        on_part(part, names[part] + ".")
        source.keep(len(units), unit.flat)
        unit.free()
        host.release_freed()
        places.append(len(units))
        units.append(unit)
        progress(number + 1, len(parts))
    loader.rest()
    progress(len(parts), len(parts))
    stream = Stream(units, places, source, device, layers=range(layers[0], layers[-1] + 1))
    hooks.install(streamed, stream)


def _staying(
    names: Mapping[nn.Module, str], parts: Sequence[nn.Module], resident: Collection[str], *, tied: bool
) -> set[nn.Module]:
    """The modules that stay on the device, with all that is in them; a tied embedding and head stay together.

    Raises:
        ConfigError: no decoder layer is left to be streamed.
    """
    stay = {
        inner for module, name in names.items() if name.rsplit(".", 1)[-1] in resident for inner in module.modules()
    }
    if stay.issuperset(parts[1:-1]):
        raise ConfigError(
            f"`additional_target: {', '.join(sorted(resident))}` trains every decoder layer completely: nothing is left to be "
            "loaded in parts",
            hint="leave it out, or load the base at once (no shard_base, no offload_base)",
        )
    if tied and {parts[0], parts[-1]} & stay:
        stay |= {parts[0], parts[-1]}
    return stay


class _Loader:
    """Puts weights into a model that has none yet."""

    def __init__(
        self, model: Any, files: TensorFiles, quantizer: Any, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._model, self._files, self._quantizer, self._dtype, self._device = model, files, quantizer, dtype, device

    def refuse_missing(self, folder: Path) -> None:
        """
        Raises:
            ArtifactError: a weight is not in the files, under the name that it has in the model.
        """
        missing = [name for name, _ in self._model.named_parameters() if name not in self._files]
        if missing:
            raise ArtifactError(
                f"the files in `{folder}` have no `{missing[0]}`"
                + (f" and {len(missing) - 1} more" * (len(missing) > 1)),
                hint="check that the folder is complete; a model whose weights are stored under other names is loaded with "
                "`shard_base: off`",
            )

    def quantize(self, part: nn.Module, prefix: str, skip: Collection[nn.Module]) -> None:
        """Read the weights of a part that are quantized."""
        if self._quantizer is None:
            return
        for owner, leaf, name in _meta(part, prefix, skip):
            if self._quantizer.param_needs_quantization(self._model, name):
                setattr(owner, leaf, quantized(self._files, name, getattr(owner, leaf), self._dtype, self._device))

    def fill(self, part: nn.Module, prefix: str, skip: Collection[nn.Module]) -> None:
        """Read all other weights of a part, which have their memory already."""
        for name, parameter, owner in _named(part, prefix):
            if owner not in skip and parameter.is_floating_point() and not hasattr(parameter, "quant_state"):
                self._files.read_into(name, parameter.data)

    def rest(self) -> None:
        """Read what is in no part: it stays on the device."""
        made: dict[int, nn.Parameter] = {}
        for owner, leaf, name in _meta(self._model, "", ()):
            empty = owner._parameters[leaf]
            if id(empty) not in made:
                value = torch.empty(empty.shape, dtype=empty.dtype, device=self._device)  # type: ignore[union-attr]
                self._files.read_into(name, value)
                made[id(empty)] = nn.Parameter(value, requires_grad=False)
            setattr(owner, leaf, made[id(empty)])


def _meta(part: nn.Module, prefix: str, skip: Collection[nn.Module]) -> list[tuple[nn.Module, str, str]]:
    """(owner, attribute, name in the model) of each parameter without memory."""
    return [
        (owner, name.rsplit(".", 1)[-1], name)
        for name, parameter, owner in _named(part, prefix)
        if parameter.is_meta and owner not in skip
    ]


def _named(part: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor, nn.Module]]:
    for path, owner in part.named_modules(prefix=prefix):
        for leaf, parameter in owner.named_parameters(recurse=False):
            yield f"{path}.{leaf}" if path else leaf, parameter, owner


def _skeleton(
    folder: str, dtype: torch.dtype, device: torch.device, packing: str, quantization: Quantization | None
) -> tuple[Any, Any]:
    """The model on torch's device without memory, and transformers' quantizer of it."""
    from transformers import AutoModelForCausalLM

    config, arguments = describe(folder, packing)
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            f"`{folder}` is stored quantized, and is not loaded in parts",
            hint="give the 16-bit weights with quantization_bit, or shard_base: off",
        )
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False, **arguments)
    if not hasattr(model.get_decoder(), "layers"):
        raise ConfigError(
            f"`{config.model_type}` has no list of decoder layers and is not loaded in parts", hint="shard_base: off"
        )
    if getattr(model, "_keep_in_fp32_modules", None) or getattr(model, "_keep_in_fp32_modules_strict", None):
        raise ConfigError(f"`{config.model_type}` mixes dtypes and is not loaded in parts", hint="shard_base: off")
    quantizer = None
    if quantization is not None:
        from transformers.quantizers.auto import AutoHfQuantizer

        quantizer = AutoHfQuantizer.from_config(bitsandbytes_config(quantization, dtype), pre_quantized=False)
        quantizer.preprocess_model(model=model, device_map={"": str(device)})
        _cast_biases(model, dtype)
    model.tie_weights()
    _give_buffers(model, device)
    return model, quantizer


def _cast_biases(model: nn.Module, dtype: torch.dtype) -> None:
    """The quantizer makes layers with biases in torch's default dtype, whatever the model's: bitsandbytes would cast each of them at
    its first use, to memory that is not the unit's, and a recomputed layer would not compute as it did at first."""
    for module in model.modules():
        if is_quantized(module) and isinstance(bias := module.bias, nn.Parameter):
            module.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _give_buffers(model: nn.Module, device: torch.device) -> None:
    """Create the modules again whose buffers are computed, such as the tables of positions.

    Raises:
        ConfigError: there is one that is not made from the config alone.
    """
    for name, module in list(model.named_modules()):
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        kind: Any = type(module)
        try:
            fresh = kind(config=module.config)
        except (AttributeError, TypeError) as error:
            raise ConfigError(f"`{name}` ({kind.__name__}) is not loaded in parts", hint="shard_base: off") from error
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, fresh.to(device))
