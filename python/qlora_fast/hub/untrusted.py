"""Files of models and adapters, read as untrusted input.

The JSON files are read here and nowhere else, each with its shape; whatever is wrong with one ends in one error that names
the file and the field. Weights are safetensors: a pickle can run code when it is opened and is refused. An index may name
only files beside it. :func:`check_model` and :func:`check_adapter` look at a whole folder before a library does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from qlora_fast.errors import ArtifactError, QloraFastError

MODEL_CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
Checks = list[tuple[str, Callable[[], object]]]
"""Checks of a folder, each under the name of the file that it reads."""
_LARGEST = 256 << 20
"""Bytes of a JSON file; the index of the largest models has some ten million."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_Size = Annotated[int, Meta(ge=1, le=1 << 40)]
_Tokens = int | list[int] | None
_Rank = Annotated[int, Meta(ge=1, le=1 << 20)]
_Alpha = Annotated[float, Meta(gt=0, le=1e9)]
_PlainName = Annotated[str, Meta(pattern=r"^\^?[\w.\\-]*\$?$")]
"""PEFT takes these names for regular expressions; one with repetitions could take very long."""


class ModelConfig(Struct):
    """The fields of a model's config.json that this program or the loading of a model depends on."""

    model_type: str | None = None
    architectures: list[str] | None = None
    vocab_size: _Size | None = None
    hidden_size: _Size | None = None
    intermediate_size: _Size | list[_Size] | None = None
    num_hidden_layers: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    num_attention_heads: _Size | list[_Size] | None = None
    num_key_value_heads: _Size | list[_Size] | None = None
    head_dim: _Size | None = None
    max_position_embeddings: _Size | None = None
    tie_word_embeddings: bool | None = None
    quantization_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    eos_token_id: _Tokens = None


class GenerationConfig(Struct):
    """The fields of a generation_config.json that matter here."""

    eos_token_id: _Tokens = None
    bos_token_id: _Tokens = None
    pad_token_id: _Tokens = None


class TokenizerConfig(Struct):
    """The fields of a tokenizer_config.json that matter here; a token is its text, or an object with it."""

    chat_template: str | list[dict[str, Any]] | dict[str, Any] | None = None
    bos_token: str | dict[str, Any] | None = None
    eos_token: str | dict[str, Any] | None = None
    pad_token: str | dict[str, Any] | None = None
    unk_token: str | dict[str, Any] | None = None
    model_max_length: Any = None


class AddedToken(Struct):
    """A token beside the vocabulary of a tokenizer.json."""

    id: int
    content: str


class TokenizerFile(Struct):
    """The fields of a tokenizer.json that Python reads; the core reads the rest."""

    added_tokens: list[AddedToken] | None = None


class AdapterConfig(Struct):
    """The fields of PEFT's adapter_config.json that decide what an adapter does to a model."""

    peft_type: str
    r: _Rank = 8
    lora_alpha: _Alpha | None = None
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    modules_to_save: list[_PlainName] | None = None
    base_model_name_or_path: str | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    rank_pattern: dict[_PlainName, _Rank] | None = None
    alpha_pattern: dict[_PlainName, _Alpha] | None = None


class RunRecord(Struct):
    """The fields of a run.json that later commands depend on."""

    data: str | None = None
    identity: dict[str, Any] | None = None


class Anything(Struct):
    """An object of which no field matters."""


class RunResults(Struct):
    """The fields of an all_results.json that later commands depend on."""

    eval_loss: float | None = None
    perplexity: float | None = None
    train_loss: float | None = None
    train_steps: int | None = None
    train_runtime: float | None = None
    best_step: int | None = None


class LogEntry(Struct):
    """The fields of a log line that plots and comparisons read."""

    step: float
    loss: float | None = None
    eval_loss: float | None = None


class TrainerState(Struct):
    """The log in a trainer_state.json."""

    log_history: list[LogEntry]


class Index(Struct):
    """The index of weights in several files: which file has which tensor."""

    weight_map: Annotated[dict[str, str], Meta(min_length=1)]


def read_json(
    path: Path, shape: type[Struct], *, error: type[QloraFastError] = ArtifactError, hint: str | None = None
) -> dict[str, Any]:
    """The object in a JSON file, all of it, after its fields were held to ``shape``.

    Args:
        error: the class that is raised. hint: what the user can do; default: get the file again.

    Raises:
        QloraFastError: it is missing, no regular file, too large, not JSON, not an object, or a field has another type.
    """

    def refuse(problem: str) -> QloraFastError:
        return error(f"`{path}` {problem}", hint=hint or "get the file again from where it came")

    try:
        if not path.is_file():
            raise refuse("is not found" if not path.exists() else "is not a regular file")
        if path.stat().st_size > _LARGEST:
            raise refuse(f"has {path.stat().st_size:,} bytes, too many for a file of this kind")
        content: Any = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise refuse(f"cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise refuse(f"is not UTF-8 text (byte {problem.start:,})") from None
    except json.JSONDecodeError as problem:
        what = "is empty" if not problem.doc.strip() else f"is not valid JSON: {problem.msg} (line {problem.lineno})"
        raise refuse(what) from None
    except RecursionError:
        raise refuse("is nested too deeply") from None
    except ValueError as problem:  # a number of more digits than Python reads
        raise refuse(f"is not valid JSON: {problem}") from None
    if not isinstance(content, dict):
        raise refuse(f"must hold an object, not {_kind(content)}")
    try:
        msgspec.convert(content, shape)
    except msgspec.ValidationError as problem:
        raise refuse(f"is malformed: {problem}") from None
    return content


def read_optional(path: Path, shape: type[Struct], **options: Any) -> dict[str, Any]:
    """:func:`read_json`, or an empty object where there is no such file."""
    return read_json(path, shape, **options) if path.exists() else {}


def weight_files(folder: Path) -> list[Path]:
    """A model folder's weight files, in the order of their names.

    Raises:
        ArtifactError: it has pickles only, an index that names a file outside the folder, or a file is missing.
    """
    index = folder / INDEX
    names = sorted(set(read_json(index, Index)["weight_map"].values())) if index.exists() else [SINGLE]
    outside = [name for name in names if not name or Path(name).name != name or "\\" in name or name in (".", "..")]
    if outside:
        raise ArtifactError(
            f"`{index}` names `{outside[0]}`, which is not a file beside it", hint="get the model from where it came"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
        if pickles and not index.exists():
            raise _pickled(folder / pickles[0], _convert_model(folder))
        raise ArtifactError(
            f"`{folder}` has no {missing[0]}", hint="get the complete model; its weights are safetensors"
        )
    return [folder / name for name in names]


def check_weights(path: Path) -> None:
    """Hold a safetensors file's header to its format: sizes, offsets, types; no tensor is read.

    Raises:
        ArtifactError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError, OverflowError) as problem:
        raise ArtifactError(f"`{path}` is damaged: {problem}", hint="get the file again from where it came") from None


def check_model(folder: Path) -> None:
    """Whether the files of a model folder are what they should be, before transformers opens them.

    Raises:
        ArtifactError: one is missing, malformed, a pickle, or outside the folder.
    """
    for _, check in model_checks(folder):
        check()


def model_checks(folder: Path) -> Checks:
    """The checks of a model folder's files, by the name of the file; of weights in several files by their index."""

    def weights() -> None:
        for path in weight_files(folder):
            check_weights(path)

    return [
        (MODEL_CONFIG, lambda: read_json(folder / MODEL_CONFIG, ModelConfig)),
        (GENERATION_CONFIG, lambda: read_optional(folder / GENERATION_CONFIG, GenerationConfig)),
        (TOKENIZER_CONFIG, lambda: read_optional(folder / TOKENIZER_CONFIG, TokenizerConfig)),
        (INDEX if (folder / INDEX).exists() else SINGLE, weights),
    ]


def check_adapter(folder: Path) -> dict[str, Any]:
    """Whether the files of an adapter's folder are what they should be, before PEFT opens them; its adapter_config.json.

    Raises:
        ArtifactError: one is missing, malformed, or a pickle.
    """
    config = read_json(folder / ADAPTER_CONFIG, AdapterConfig)
    _check_adapter_weights(folder)
    return config


def adapter_checks(folder: Path) -> Checks:
    """The checks of an adapter's files, by the name of the file."""
    return [
        (ADAPTER_CONFIG, lambda: read_json(folder / ADAPTER_CONFIG, AdapterConfig)),
        (ADAPTER_WEIGHTS, lambda: _check_adapter_weights(folder)),
    ]


def _check_adapter_weights(folder: Path) -> None:
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        pickled = folder / "adapter_model.bin"
        if pickled.exists():
            raise _pickled(pickled, _convert_adapter(folder))
        raise ArtifactError(f"`{folder}` has no {ADAPTER_WEIGHTS}", hint="give the output_dir of a finished run")
    check_weights(weights)


def adapted_modules(folder: Path) -> list[str]:
    """The full names of the modules that an adapter's weights belong to, as the base model names them."""
    return sorted(set(_adapted(folder / ADAPTER_WEIGHTS)))


def _adapted(path: Path) -> Iterator[str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  it is no mapping
            module, found, _ = name.partition(".lora_")
            if found:
                yield module.removeprefix("base_model.model.")


def _pickled(path: Path, convert: str) -> ArtifactError:
    return ArtifactError(
        f"`{path}` is a pickle, which can run code when it is opened; weights are read from safetensors only",
        hint=f"if you trust where it comes from, convert it once: {convert}",
    )


def _convert_model(folder: Path) -> str:
    new = f"{folder.name}-safetensors"
    call = f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{new}')"
    return f'python -c "from transformers import AutoModelForCausalLM as M; {call}", then copy the tokenizer\'s files there'


def _convert_adapter(folder: Path) -> str:
    old, new = f"'{folder / 'adapter_model.bin'}'", f"'{folder / ADAPTER_WEIGHTS}'"
    call = f"save_file(torch.load({old}, weights_only=True), {new})"
    return f'python -c "import torch; from safetensors.torch import save_file; {call}"'


def _kind(content: Any) -> str:
    names = {list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if content is None else names.get(type(content), type(content).__name__)
