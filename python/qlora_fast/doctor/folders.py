"""Runs, adapters and models, verified: every byte that a manifest lists, and the shape of what no manifest lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from qlora_fast import atomic_io
from qlora_fast.config import load
from qlora_fast.doctor.finding import Finding
from qlora_fast.errors import ConfigError, QloraFastError
from qlora_fast.hub import manifest, untrusted
from qlora_fast.runs import layout
from qlora_fast.runs.resolve import target_of

Progress = Callable[[str, int, int], object]
OnBytes = Callable[[int], object]
_AGAIN = "copy the folder again from where it is complete"
_RESUME = "`qlora-fast train` with resume_from_checkpoint=true takes an earlier checkpoint; this one can be deleted"
_RESTORE = "resuming the run restores it, if the checkpoint that it was made from is there"
_JSON = (layout.TRAINER_STATE, layout.ALL_RESULTS, layout.TRAIN_RESULTS, layout.EVAL_RESULTS)


def is_model(path: Path) -> bool:
    """Whether a folder is a model, merged by this program or of another."""
    return (path / untrusted.MODEL_CONFIG).is_file()


def is_run(path: Path) -> bool:
    """Whether a folder is a run, also if its run.json is gone."""
    # LLaMA-Factory's output folders have a log of this name, too.
    return layout.is_run(path) or all((path / name).is_file() for name in (layout.LOG, layout.CONFIG))


def has_manifest(path: Path) -> bool:
    """Whether this program listed the files of a folder."""
    return (path / manifest.MANIFEST).is_file()


def verify_listed(path: Path, progress: Progress | None = None) -> Iterator[Finding]:
    """A folder of any kind with a manifest."""
    yield from _listed(path, "", _AGAIN, _counted(progress, [path]))


def verify_run(path: Path, progress: Progress | None = None) -> Iterator[Finding]:
    """A run's records, its final adapter, ``best/``, ``last/`` and every checkpoint."""
    yield from _records(path)
    yield from _base(path)
    parts = [part for part in sorted(path.iterdir()) if part.is_dir() and _is_part(part.name)]
    on_bytes = _counted(progress, [*parts, path])
    for part in parts:
        hint = _RESUME if layout.update_of(part.name) is not None else _RESTORE
        yield from _listed(part, f"{part.name}/", hint, on_bytes)
    # A finished run has both; either may be the one that was lost.
    if layout.is_adapter(path) or has_manifest(path):
        yield from _listed(path, "", _AGAIN, on_bytes, extra=False)
    for name in sorted(entry.name for entry in path.iterdir() if atomic_io.is_temporary(entry)):
        yield Finding(name, "note", "left by a process that was killed; the next command that writes here removes it")


def verify_adapter(path: Path, progress: Progress | None = None) -> Iterator[Finding]:
    """An adapter's folder: of this program by its manifest, of another by its shape."""
    for name, check in untrusted.adapter_checks(path):
        yield from _shape(check, name)
    yield from _base(path)
    yield from _listed(path, "", _AGAIN, _counted(progress, [path]))


def verify_model(path: Path, progress: Progress | None = None) -> Iterator[Finding]:
    """A model's folder: one that was merged by its manifest, any other by its shape."""
    for name, check in untrusted.model_checks(path):
        yield from _shape(check, name)
    yield from _listed(path, "", _AGAIN, _counted(progress, [path]))


def _counted(progress: Progress | None, folders: Sequence[Path]) -> OnBytes:
    """What takes the bytes of each file that was verified, and reports their sum against all that the folders list."""
    done, total = 0, sum(map(manifest.listed_bytes, folders))

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("verifying", done, total)

    on_bytes(0)
    return on_bytes


def _listed(folder: Path, prefix: str, hint: str, on_bytes: OnBytes, *, extra: bool = True) -> Iterator[Finding]:
    """One finding for each file that is not as the manifest lists it, and one for all that are.

    Args:
        prefix: of the names in the findings. extra: whether files that are not listed are worth a note.
    """
    if not (folder / manifest.MANIFEST).exists() and not prefix:
        yield Finding(manifest.MANIFEST, "note", "not found: the bytes of the folder cannot be verified")
        return
    found = manifest.problems(folder, on_bytes=on_bytes)
    for problem in found:
        edited = problem.file in manifest.FOR_PEOPLE
        what = f"{problem.what}: it was edited" if edited else problem.what
        yield Finding(prefix + problem.file, "note" if edited else "broken", what, None if edited else hint)
    for name in manifest.unlisted(folder) if extra else ():
        yield Finding(prefix + name, "note", "not listed in the manifest: it came later")
    if any(problem.file == manifest.MANIFEST for problem in found):
        return
    names = [name for name in manifest.listed(folder) if name != manifest.MANIFEST]
    whole = len(names) - len(found)
    size = sum((folder / name).stat().st_size for name in names if (folder / name).is_file())
    state = f"{whole:,} of {len(names):,} files as they were written, {size / 1e6:,.1f} MB in all"
    yield Finding(prefix or "files", "ok", state)


def _records(path: Path) -> Iterator[Finding]:
    """The JSON files of a run, its settings and its log."""
    yield from _shape(lambda: untrusted.read_json(path / layout.RUN, untrusted.RunRecord, hint=_AGAIN), layout.RUN)
    # A run that was killed while its data was prepared has none yet; one that has trained has.
    if any((path / name).exists() for name in (layout.CONFIG, layout.LOG, layout.ALL_RESULTS)):
        yield from _shape(lambda: load(path / layout.CONFIG), layout.CONFIG)
    for name in _JSON:
        if (path / name).exists():
            check = partial(untrusted.read_json, path / name, untrusted.Anything, hint=_AGAIN)
            yield from _shape(check, name)
    if (path / layout.LOG).exists():
        yield from _log(path / layout.LOG)


def _base(path: Path) -> Iterator[Finding]:
    """Whether the base model is where every command will look for it."""
    try:
        target_of(path).config(hint="--base FOLDER (evaluate: model_name_or_path=FOLDER)")
    except ConfigError:
        return  # of config.yaml, which has a finding of its own
    except QloraFastError as error:
        yield Finding("base model", "warning", error.message, error.hint)


def _log(path: Path) -> Iterator[Finding]:
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            if not line.endswith(b"\n"):
                yield Finding(
                    path.name,
                    "note",
                    "its last line is incomplete: the run was killed while it wrote; no command reads it",
                )
                return
            yield Finding(path.name, "broken", f"line {number:,} is not JSON", "delete that line")
            return


def _shape(check: Callable[[], object], name: str) -> Iterator[Finding]:
    """A finding about the file of this name if its check refuses it."""
    try:
        check()
    except QloraFastError as error:
        yield Finding(name, "broken", error.message, error.hint)


def _is_part(name: str) -> bool:
    return name in (layout.BEST, layout.LAST) or layout.update_of(name) is not None
