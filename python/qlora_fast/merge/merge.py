"""A merged model's folder: weights, tokenizer, a self-check, and how to serve it. Complete, or absent."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import qlora_fast
from qlora_fast import atomic_io
from qlora_fast.config import load
from qlora_fast.data.saved_tokenizer import save_stop_tokens, save_tokenizer
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import manifest, untrusted
from qlora_fast.hub.manifest import Verify
from qlora_fast.hub.untrusted import weight_files
from qlora_fast.merge import serving
from qlora_fast.merge.delta import read_update
from qlora_fast.merge.verify import Check, FromTrained, compare_logits
from qlora_fast.merge.weights import DTYPES, Counts, base_folder, copy_rest, write_merged
from qlora_fast.model.load import Quantization, pick_device
from qlora_fast.runs import layout
from qlora_fast.runs.resolve import target_of

log = logging.getLogger(__name__)

REPORT = "merge.json"
PROBES = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Who are you?", "I am an assistant."),
    ("用一句话解释什么是人工智能。", "人工智能是让机器完成需要智慧的任务的技术。"),
    ("Write a Python function that adds two numbers.", "def add(a, b):\n    return a + b"),
)
"""Short conversations, as in use; the logits at every position are compared."""


@dataclass(frozen=True, slots=True)
class Options:
    """``dtype``: None for the base's own. ``check_dtype``: what the self-check computes in; None for no check. ``verify``: of
    the adapter and of a merged base, as prepared data is verified; None for what the run says."""

    dtype: str | None = None
    check_dtype: str | None = "fp32"
    base: str | None = None
    verify: Verify | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model.

    Attributes:
        folder: an ordinary model folder. report: what merge.json holds.
        commands: what to type to serve it, by server. notes: what to know about it.
    """

    folder: Path
    report: dict[str, Any]
    commands: dict[str, list[str]]
    notes: list[str]


def merge(
    run: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    dtype: str | None = None,
    check: bool = True,
    check_dtype: str = "fp32",
    verify: Verify | None = None,
) -> Merged:
    """Merge an adapter into its base model: what ``qlora-fast merge`` does.

    Args:
        run: a run's folder, ``best``, ``last`` or a checkpoint in it, or an adapter's folder.
        out: the folder to write; it must not exist.
        base: the base model, if it is no longer where it was at training.
        dtype: of the merged weights: ``bf16``, ``fp16`` or ``fp32``; None for that of the base.
        check: compare the logits of the merged model with those of base and adapter.
        check_dtype: what the comparison computes in, ``fp32`` or ``bf16``.
        verify: what is verified of the adapter and of a merged base: ``full``, ``quick`` or ``off``; default what the run says.

    Returns:
        The folder, the report (as in merge.json), the commands to serve the model, and notes.

    Raises:
        ArtifactError: ``out`` exists, adapter and base do not belong together, or the merged model differs from base and
            adapter by more than rounding. Nothing is left behind then.

    Example:
        >>> merged = qlora_fast.merge("runs/mine", "merged/mine")
        >>> (merged.folder / "config.json").is_file(), list(merged.commands)
        (True, ['vLLM', 'llama.cpp', 'Ollama'])
    """
    return merge_run(Path(run), Path(out), Options(dtype, check_dtype if check else None, base, verify))


def merge_run(
    run: Path, folder: Path, options: Options, progress: Callable[[int, int], None] = lambda *_: None
) -> Merged:
    """Merge an adapter into its base model; :func:`merge` with a progress callback (bytes done, bytes in all).

    Raises:
        ArtifactError: see :func:`merge`.
    """
    if folder.exists():
        raise ArtifactError(f"`{folder}` already exists; nothing in it was changed", hint="give another -o FOLDER")
    target = target_of(run)
    adapter = target.adapter_folder(options.verify)
    name = target.base(options.base)
    tokenizer = target.tokenizer(name)
    atomic_io.sweep(folder.parent)
    base, update = base_folder(name, target.verify_level(options.verify)), read_update(adapter)
    dtype = DTYPES[options.dtype] if options.dtype else None
    _check_space(base, folder, dtype)
    with atomic_io.new_folder(folder) as made:
        counts = write_merged(base, update, made, dtype, progress)
        left = copy_rest(base, made)
        said = [*save_tokenizer(tokenizer, made), *save_stop_tokens(tokenizer, made)]
        if counts.moved and not counts.changed:
            raise _lost("none of the weights that it changes would change")
        stored = _stored_dtype(made)
        trained_on = _trained_on(adapter)
        check = None
        if options.check_dtype:
            log.info("checking it against base and adapter on %d prompts", len(PROBES))
            check = _check(base, adapter, made, tokenizer, stored, options.check_dtype, trained_on)
        notes = [*_notes(trained_on, counts, check, left), *said]
        settings = untrusted.read_json(made / untrusted.MODEL_CONFIG, untrusted.ModelConfig)
        commands = serving.commands(folder, dtype=stored, max_len=settings.get("max_position_embeddings"))
        report = _report(name, adapter, stored, counts, check, notes)
        (made / "Modelfile").write_text(serving.modelfile(tokenizer), encoding="utf-8")
        (made / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
        (made / "README.md").write_text(_readme(report, commands), encoding="utf-8")
        manifest.write(made)
    return Merged(folder, report, commands, notes)


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
        raise _lost(
            f"the next token is predicted {check.kl_mean:.1e} nats away from the adapter's prediction, and the base alone is only "
            f"{check.kl_update:.1e} away"
        )
    if not check.passed:
        what = f"logits differ by up to {check.max_difference:.2e}" if exact else f"their KL is {check.kl_mean:.2e}"
        raise ArtifactError(
            f"the merged model does not answer as base and adapter do: {what} (bound {check.bound:.2e}); nothing was written",
            hint="merge with --dtype fp32, or serve base and adapter side by side",
        )
    return check


def _lost(how: str) -> ArtifactError:
    return ArtifactError(
        "the adapter changes the weights by less than 16 bits can hold, so that most of the change would be lost in rounding, as "
        f"after very few or very small optimizer steps: {how}; nothing was written",
        hint="merge with --dtype fp32 (twice the size), train longer, or serve base and adapter side by side",
    )


def _notes(trained_on: Quantization | None, counts: Counts, check: Check | None, left: list[str]) -> list[str]:
    notes = []
    if trained_on is not None:
        notes.append(_quantization_note(trained_on.bits, check.from_trained if check else None))
    if counts.moved and counts.rounding > 0.5:
        notes.append(
            f"the rounding error to 16 bits is {counts.rounding:.0%} of the adapter's change in norm; it has no direction, so it "
            "matters less than that (see kl_mean); --dtype fp32 avoids it"
        )
    if check is None:
        notes.append("not checked: --no-check was given")
    if left:
        notes.append(f"code of the base model was not copied: {', '.join(left)}")
    return notes


def _quantization_note(bits: int, measured: FromTrained | None) -> str:
    text = f"trained on a {bits}-bit base and merged into the 16-bit one, without the rounding that the adapter was trained with: "
    if measured is None:
        text += "losses differ a little from those of the run (not measured)"
    else:
        text += (
            f"KL of the next token from the trained model {measured.kl_mean:.1e} nats on average, {measured.kl_max:.1e} at most "
            f"(the adapter itself: {measured.kl_update:.1e}); the same most likely token at {measured.same_top:.1%} of positions"
        )
    return text + "; `qlora-fast evaluate FOLDER dataset=…` measures the merged model"


def _trained_on(adapter: Path) -> Quantization | None:
    """How the base was quantized at training, if the run's config is in the adapter's folder or its parent."""
    run = next((f for f in (adapter, adapter.resolve().parent) if (f / layout.CONFIG).is_file()), None)
    return None if run is None else Quantization.of(load(run / layout.CONFIG).config)


def _stored_dtype(folder: Path) -> str:
    from qlora_fast.merge.safetensors_stream import read_header

    entries = [entry for path in weight_files(folder) for entry in read_header(path)]
    largest = max((e for e in entries if e.dtype.is_floating_point), key=lambda e: e.bytes)
    return next((name for name, dtype in DTYPES.items() if dtype == largest.dtype), "fp32")


def _check_space(base: Path, folder: Path, dtype: torch.dtype | None) -> None:
    """
    Raises:
        ArtifactError: the disk has no room for the weights in the precision in which they will be written.
    """
    needed = sum(path.stat().st_size for path in weight_files(base))
    if dtype is not None:
        needed = needed * dtype.itemsize // DTYPES[_stored_dtype(base)].itemsize
    place = next(parent for parent in (folder.resolve().parent, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ArtifactError(
            f"`{place}` has {atomic_io.size_text(free)} free, the merged model needs {atomic_io.size_text(needed)}",
            hint="free some space there, or give a folder on another disk",
        )


def _report(
    name: str, adapter: Path, stored: str, counts: Counts, check: Check | None, notes: list[str]
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "qlora_fast": qlora_fast.__version__,
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
        f"`{report['base_model']}` with the adapter `{Path(report['adapter']).name}` merged into it, {report['dtype']}.",
        "",
    ]
    check = report["check"]
    if check:
        lines += [
            f"Compared with base and adapter at {check['positions']} positions: logits differ by at most "
            f"{check['max_difference']:.2e} (largest logit {check['largest_logit']:.1f}), KL of the next token "
            f"{check['kl_mean']:.1e} on average (of the adapter itself: {check['kl_update']:.1e}).",
            "",
        ]
    lines += [f"- {note}" for note in report["notes"]]
    for server, words in commands.items():
        lines += ["", f"## {server}", "", "```sh", *words, "```"]
    return "\n".join(lines) + "\n"
