"""A merged model's folder: weights, tokenizer, a self-check, and how to serve it. Whole, or not there."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qlora_fast import atomic_io
from qlora_fast.config import load, of
from qlora_fast.data.tokenizer import Tokenizer, tokenizer_of
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import resolve
from qlora_fast.merge import serving
from qlora_fast.merge.delta import read_update
from qlora_fast.merge.safetensors_stream import shard_files
from qlora_fast.merge.verify import Check, FromTrained, compare_logits
from qlora_fast.merge.weights import DTYPES, Counts, base_folder, copy_rest, write_merged
from qlora_fast.model.load import Quantization, pick_device
from qlora_fast.runs.adapter_card import CARD, check_tokenizer, no_adapter, read_card

log = logging.getLogger(__name__)

REPORT = "merge.json"
PROBES = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Who are you?", "I am an assistant."),
    ("用一句话解释什么是人工智能。", "人工智能是让机器完成需要智慧的任务的技术。"),
    ("Write a Python function that adds two numbers.", "def add(a, b):\n    return a + b"),
)
"""Short exchanges in the shapes that models are asked for; every position of them is compared."""


@dataclass(frozen=True, slots=True)
class Options:
    """``dtype``: None for the base's own. ``check_dtype``: what the self-check computes in; None for no check."""

    dtype: str | None = None
    check_dtype: str | None = "fp32"
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """What was made, as told to the person and kept in merge.json."""

    folder: Path
    report: dict[str, Any]
    commands: dict[str, list[str]]
    notes: list[str]


def merge_run(
    adapter: Path, folder: Path, options: Options, progress: Callable[[int, int], None] = lambda *_: None
) -> Merged:
    """Merge an adapter into its base.

    Raises:
        ArtifactError: the folder is taken, the parts do not belong together, or the result would not say what base and
            adapter say. Nothing is left behind then.
    """
    if folder.exists():
        raise ArtifactError(f"`{folder}` is there already; nothing in it was touched", hint="give another -o FOLDER")
    name, tokenizer = _origin(adapter, options.base)
    base, update = base_folder(name), read_update(adapter)
    _check_space(base, folder)
    dtype = DTYPES[options.dtype] if options.dtype else None
    with atomic_io.new_folder(folder) as made:
        counts = write_merged(base, update, made, dtype, progress)
        left = copy_rest(base, tokenizer.folder, made)
        if counts.moved and not counts.changed:
            raise _lost(counts, None)
        stored = _stored_dtype(made)
        trained_on = _trained_on(adapter)
        check = None
        if options.check_dtype:
            log.info("checking it against base and adapter on %d prompts", len(PROBES))
            check = _check(base, adapter, made, tokenizer, stored, options.check_dtype, trained_on)
        notes = _notes(trained_on, counts, check, left)
        settings = json.loads((made / "config.json").read_text(encoding="utf-8"))
        commands = serving.commands(folder, dtype=stored, max_len=settings.get("max_position_embeddings"))
        report = _report(name, adapter, stored, counts, check, notes)
        (made / "Modelfile").write_text(serving.modelfile(tokenizer), encoding="utf-8")
        (made / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
        (made / "README.md").write_text(_readme(report, commands), encoding="utf-8")
    return Merged(folder, report, commands, notes)


def _origin(adapter: Path, base: str | None) -> tuple[str, Tokenizer]:
    """The base model's name, and the tokenizer and template that the adapter was trained with."""
    if (adapter / CARD).is_file():
        card = read_card(adapter)
        name = base or resolve.found_base(str(card["base_model"]), adapter)
        tokens = resolve.tokenizer_folder(name)
        check_tokenizer(card, resolve.digest(tokens / "tokenizer.json"), name)
        return name, Tokenizer(tokens, card["template"], card["bos_token"], card["eos_token"], card["default_system"])
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise no_adapter(adapter)
    name = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    name = base or resolve.found_base(name, adapter)
    return name, tokenizer_of(of(model_name_or_path=name))


def _check(
    base: Path,
    adapter: Path,
    made: Path,
    tokenizer: Tokenizer,
    stored: str,
    dtype: str,
    trained_on: Quantization | None,
) -> Check:
    encoder = tokenizer.encoder()
    prompts = []
    for question, answer in PROBES:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        prompts.append(encoder.encode(json.dumps({"messages": turns}, ensure_ascii=False))[0].tolist())
    exact = stored == "fp32" and dtype == "fp32"
    check = compare_logits(
        base, adapter, made, prompts, exact=exact, dtype=DTYPES[dtype], device=pick_device(), trained_on=trained_on
    )
    if check.lost:
        raise _lost(None, check)
    if not check.passed:
        what = f"logits differ by up to {check.max_difference:.2e}" if exact else f"their KL is {check.kl_mean:.2e}"
        raise ArtifactError(
            f"the merged model does not say what base and adapter say: {what} (bound {check.bound:.2e}); nothing was written",
            hint="merge with --dtype fp32, or serve base and adapter side by side",
        )
    return check


def _lost(counts: Counts | None, check: Check | None) -> ArtifactError:
    how = "none of the weights that it moves came out different" if counts is not None else ""
    if check is not None:
        how = f"the merged model is {check.kl_mean:.1e} nats from the adapter, the base alone {check.kl_update:.1e}"
    return ArtifactError(
        f"the update is too small for the base's 16-bit weights and would be rounded away: {how}; nothing was written",
        hint="merge with --dtype fp32, or serve base and adapter side by side",
    )


def _notes(trained_on: Quantization | None, counts: Counts, check: Check | None, left: list[str]) -> list[str]:
    notes = []
    if trained_on is not None:
        notes.append(_of_the_change_of_base(trained_on.bits, check.from_trained if check else None))
    if counts.moved and counts.rounding > 0.5:
        notes.append(
            f"rounding to 16 bits is {counts.rounding:.0%} as long as the update itself: without a direction of its own, so "
            "it costs less than it sounds (see kl_mean); --dtype fp32 avoids it"
        )
    if check is None:
        notes.append("not checked: --no-check was given")
    if left:
        notes.append(f"programs of the base were not copied: {', '.join(left)}")
    return notes


def _of_the_change_of_base(bits: int, measured: FromTrained | None) -> str:
    said = f"trained on a base of {bits} bits, merged onto the 16-bit one, whose rounding the adapter saw in training is gone: "
    if measured is None:
        said += "losses differ a little from those of the run (how much was not measured)"
    else:
        said += (
            f"the next token is {measured.kl_mean:.1e} nats from that of the run's own model on average "
            f"({measured.kl_max:.1e} at worst; the adapter's own effect there is {measured.kl_update:.1e}), the likeliest one the same "
            f"at {measured.same_top:.1%} of the positions"
        )
    return said + "; `qlora-fast evaluate FOLDER dataset=…` measures the merged model"


def _trained_on(adapter: Path) -> Quantization | None:
    """How the base was stored while the adapter learned, if its run's config lies beside it or above it."""
    run = next((f for f in (adapter, adapter.resolve().parent) if (f / "config.yaml").is_file()), None)
    return None if run is None else Quantization.of(load(run / "config.yaml").config)


def _stored_dtype(folder: Path) -> str:
    from qlora_fast.merge.safetensors_stream import read_header

    entries = [entry for path in shard_files(folder) for entry in read_header(path)]
    largest = max((e for e in entries if e.dtype.is_floating_point), key=lambda e: e.bytes)
    return next((name for name, dtype in DTYPES.items() if dtype == largest.dtype), "fp32")


def _check_space(base: Path, folder: Path) -> None:
    needed = 2 * sum(path.stat().st_size for path in shard_files(base))
    place = next(parent for parent in (folder.resolve().parent, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed // 2:
        raise ArtifactError(f"`{place}` has {free / 1e9:.1f} GB free, the model needs {needed / 2e9:.1f}")


def _report(
    name: str, adapter: Path, stored: str, counts: Counts, check: Check | None, notes: list[str]
) -> dict[str, Any]:
    from qlora_fast import _core

    report: dict[str, Any] = {
        "qlora_fast": _core.__version__,
        "base_model": name,
        "adapter": str(adapter),
        "dtype": stored,
        "weights": {**asdict(counts), "rounding": counts.rounding},
        "check": None,
        "notes": notes,
        "torch": torch.__version__,
    }
    if check is not None:
        report["check"] = {**asdict(check), "bound": check.bound}
    return report


def _readme(report: dict[str, Any], commands: dict[str, list[str]]) -> str:
    lines = [
        f"`{report['base_model']}` with the adapter `{Path(report['adapter']).name}` folded in, {report['dtype']}.",
        "",
    ]
    check = report["check"]
    if check:
        lines += [
            f"Against base and adapter, over {check['positions']} positions: logits differ by at most "
            f"{check['max_difference']:.2e} (largest logit {check['largest_logit']:.1f}), KL of the next token "
            f"{check['kl_mean']:.1e} on average; the adapter itself moves it by {check['kl_update']:.1e}.",
            "",
        ]
    lines += [f"- {note}" for note in report["notes"]]
    for server, words in commands.items():
        lines += ["", f"## {server}", "", "```sh", *words, "```"]
    return "\n".join(lines) + "\n"
