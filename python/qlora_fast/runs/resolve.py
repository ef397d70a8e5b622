"""What a name on the command line refers to: a run, a checkpoint or adapter in it, a foreign adapter, or a base model.

``chat``, ``evaluate``, ``merge``, ``compare`` and ``export`` all ask here, so that every command accepts the same names and
answers a wrong one with the same message.

::

    runs/x                the adapter of a finished run
    runs/x/best, last     the adapter of the best evaluation, of the last checkpoint
    runs/x/checkpoint-40  the adapter of a checkpoint
    any/folder            an adapter of another program: adapter_config.json names its base model
    models/y, owner/y     a base model
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from qlora_fast import atomic_io
from qlora_fast.config import Config, load
from qlora_fast.config.paths import expanded
from qlora_fast.data.tokenizer import Tokenizer, tokenizer_of
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import manifest, places, untrusted
from qlora_fast.hub import resolve as hub
from qlora_fast.hub.manifest import Verify
from qlora_fast.runs import layout
from qlora_fast.runs.adapter_card import check_tokenizer, read_card

Kind = Literal["run", "checkpoint", "best", "last", "adapter", "model"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a name refers to.

    Attributes:
        name: as the user gave it.
        kind: ``run``, ``checkpoint``, ``best`` and ``last`` are of qlora-fast; ``adapter`` is any other.
        adapter: the folder with adapter_config.json; None for a model, and for a run that has none yet.
        run: the run's folder that it belongs to; None if there is none.
    """

    name: str
    kind: Kind
    adapter: Path | None
    run: Path | None

    def verify_level(self, given: Verify | None = None) -> Verify:
        """What is verified of adapter and base: ``given``, else what the run's settings say, else every byte."""
        if given is not None or self.run is None or not (self.run / layout.CONFIG).is_file():
            return given or "full"
        return load(self.run / layout.CONFIG).config.verify

    def adapter_folder(self, verify: Verify | None = None) -> Path:
        """The adapter, once its files are verified.

        Args:
            verify: see :meth:`verify_level`.

        Raises:
            ArtifactError: there is none (a base model, or a run that has not finished), or it is damaged.
        """
        if self.adapter is not None:
            manifest.verify(self.adapter, "adapter", self.verify_level(verify))
            return self.adapter
        if self.run is not None:
            raise _no_adapter(self.run, f"the run `{self.name}` has not finished: it has no adapter of its own yet")
        self._check_there()
        raise ArtifactError(f"`{self.name}` is a base model, not an adapter", hint="give a run or an adapter's folder")

    def run_folder(self) -> Path:
        """The run itself, not a part of it.

        Raises:
            ArtifactError: it is something else.
        """
        if self.kind == "run" and self.run is not None:
            return self.run
        if self.run is not None:
            raise ArtifactError(
                f"`{self.name}` is an adapter in the run `{self.run}`", hint=f"give the run: {self.run}"
            )
        self._check_there()
        what = "a base model" if self.adapter is None else "an adapter without a run"
        raise ArtifactError(f"`{self.name}` is {what}, not a run", hint="give the output_dir of `qlora-fast train`")

    def _check_there(self) -> None:
        """Of what can only be a folder: the name of a model on the Hub is none.

        Raises:
            ArtifactError: there is no such folder.
        """
        if self.name != hub.EMBEDDED and not Path(self.name).exists():
            raise places.nothing_at(self.name)

    def config(self, settings: Mapping[str, Any] | None = None, *, hint: str = "--base FOLDER") -> Config:
        """The settings of the run, or defaults for the adapter or model.

        Args:
            settings: config keys over those of the run.
            hint: how the command names another place of the base model.

        Raises:
            ArtifactError: an adapter that does not name its base model, or the base model is not found.
            ConfigError: a setting is wrong.
        """
        given = dict(settings or {})
        if self.run is not None:
            config = load(self.run / layout.CONFIG, given).config
        elif self.adapter is None:
            return load(None, {"model_name_or_path": self.name, **given}).config
        else:
            config = load(None, {**self._stored(self.adapter, hint, "model_name_or_path" in given), **given}).config
        if "model_name_or_path" in given:
            return config
        beside = self.run or self.adapter or Path()
        return replace(config, model_name_or_path=hub.found_base(config.model_name_or_path, beside, hint=hint))

    def base(self, instead: str | None = None) -> str:
        """The base model's name: ``instead``, or the one that the adapter was trained on.

        Raises:
            ArtifactError: an adapter that does not name its base model, or the base model is not found.
        """
        return self.config({} if instead is None else {"model_name_or_path": instead}).model_name_or_path

    def tokenizer(self, base: str | None = None) -> Tokenizer:
        """The tokenizer of the base model with the chat template that the adapter was trained with.

        Args:
            base: another place of the base model.

        Raises:
            TokenizerError: the base model has another tokenizer than at training.
            ArtifactError: the base model is not found.
        """
        name = self.base(base)
        card = self._card()
        if card is None:
            return tokenizer_of(self.config({"model_name_or_path": name}))
        folder = hub.tokenizer_folder(name)
        check_tokenizer(card, atomic_io.sha256_of(folder / "tokenizer.json"), name)
        return Tokenizer(folder, str(card["template"]), card["bos_token"], card["eos_token"], card["default_system"])

    def _card(self) -> dict[str, str | None] | None:
        """What is stored beside the adapter, or beside another adapter of the same run: checkpoints have no card."""
        if self.adapter is None:
            return None
        places = [self.adapter, *([self.run, self.run / layout.LAST] if self.run is not None else [])]
        return next((read_card(place) for place in places if (place / layout.CARD).is_file()), None)

    def _stored(self, adapter: Path, hint: str, replaced: bool) -> dict[str, str | None]:
        """What an adapter without a run says of its training: its base model, and ours also the template."""
        card = self._card()
        if card is not None:
            own = {"model_name_or_path": card["base_model"], "template": card["template"]}
            return own if card["default_system"] is None else {**own, "default_system": card["default_system"]}
        base = untrusted.read_json(adapter / layout.ADAPTER_CONFIG, untrusted.AdapterConfig).get(
            "base_model_name_or_path"
        )
        if isinstance(base, str) and base:
            return {"model_name_or_path": base}
        if replaced:
            return {}
        raise ArtifactError(f"`{adapter}` does not name its base model", hint=f"name it: {hint}")


def target_of(name: str | Path) -> Target:
    """Find out what a name refers to. ``~`` and environment variables are expanded.

    Raises:
        ArtifactError: it is none of these things.
    """
    name = str(name)
    path, problem = expanded(name)
    if problem:
        raise ArtifactError(f"`{name}` {problem}")
    folder = Path(path)
    if not folder.is_dir():
        if folder.is_file() and folder.suffix == ".gguf":
            return Target(str(folder), "model", None, None)
        if layout.is_run(folder.parent) and not folder.exists():
            raise _no_adapter(folder.parent, f"no adapter `{name}`")
        if path != hub.EMBEDDED:
            places.refuse_path(path)
        return Target(name, "model", None, None)
    if layout.is_run(folder):
        return Target(str(folder), "run", folder if layout.is_adapter(folder) else None, folder)
    if layout.is_adapter(folder):
        above = folder.resolve().parent
        if not layout.is_run(above):
            return Target(str(folder), "adapter", folder, None)
        # In the user's words where they name the run.
        run = folder.parent if folder.parent.resolve() == above else above
        return Target(str(folder), _kind(folder), folder, run)
    if (folder / "config.json").is_file():
        return Target(str(folder), "model", None, None)
    raise _no_adapter(folder, f"`{name}` is not a run, an adapter or a model")


def refuse_as_data(name: str | Path) -> None:
    """For commands that take prepared data.

    Raises:
        ArtifactError: there is no such folder, or it is a run, an adapter or a model instead.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise places.nothing_at(str(name), of_file=f"prepare it: qlora-fast prep {shlex.quote(str(name))}")
    if (folder / places.PREPARED).is_file():
        return
    inside = [f"`{file.parent}`" for file in sorted(folder.glob(f"[!.]*/{places.PREPARED}"))]
    if inside:
        raise ArtifactError(f"`{name}` is not a prepared dataset", hint=f"those in it: {', '.join(inside[:6])}")
    try:
        found = target_of(folder)
    except ArtifactError:
        return
    what = {"run": "a run", "model": "a model"}.get(found.kind, "an adapter")
    command = (
        "qlora-fast prep DATA"
        if found.run is None
        else f"qlora-fast prep --config {shlex.quote(str(found.run / layout.CONFIG))}"
    )
    raise ArtifactError(f"`{name}` is {what}, not a prepared dataset", hint=f"prepare its data: {command}")


def _kind(folder: Path) -> Kind:
    name = folder.resolve().name
    if layout.update_of(name) is not None:
        return "checkpoint"
    return "best" if name == layout.BEST else "last" if name == layout.LAST else "adapter"


def _no_adapter(folder: Path, message: str) -> ArtifactError:
    """With the adapters that are in the folder: of a stopped run its checkpoints, of a folder of runs each of them."""
    inside = sorted(file.parent for file in folder.glob(f"[!.]*/{layout.ADAPTER_CONFIG}"))
    names = ", ".join(f"`{path}`" for path in inside[:6])
    hint = f"adapters there: {names}" if names else "give the output_dir of a finished run, or a checkpoint in it"
    return ArtifactError(message, hint=hint)
