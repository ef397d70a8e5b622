"""One meaning for each object: every command that takes a folder or a name, tried with everything that it may be.

A cell is ``ok`` or the short name of the refusal in :data:`SAYS`. A command that begins to accept an object, or answers it
with another message, changes its cell.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_run import cli
from qlora_fast.hub import manifest
from tiny_folder import config_file, trained

TABLE = """
object             chat    evaluate generate merge   compare  export    resume    parent  base     doctor
run                ok      ok       ok       ok      ok       not-data  word      ok      not-base ok
./run/             ok      ok       ok       ok      ok       not-data  is-run    ok      not-base ok
ROOT/run           ok      ok       ok       ok      ok       not-data  is-run    ok      not-base ok
~/run              ok      ok       ok       ok      ok       not-data  is-run    ok      not-base ok
$PROJECT/run       ok      ok       ok       ok      ok       not-data  is-run    ok      not-base ok
link/to            ok      ok       ok       ok      ok       not-data  is-run    ok      not-base ok
run/best           ok      ok       ok       ok      part     not-data  no-state  ok      not-base ok
run/last           ok      ok       ok       ok      part     not-data  no-state  ok      not-base ok
run/checkpoint-1   ok      ok       ok       ok      part     not-data  other-dir ok      not-base ok
go/checkpoint-2    ok      ok       ok       ok      part     not-data  ok        ok      not-base ok
by/peft            ok      ok       ok       ok      no-run   not-data  foreign   ok      not-base ok
by/merged          ok      ok       ok       model   model    not-data  model     model   ok       ok
by/base            ok      ok       ok       model   model    not-data  model     model   ok       ok
owner/name         hub     hub      hub      nothing nothing  nothing   no-check  nothing hub      nothing
missing            hub     hub      hub      nothing nothing  nothing   word      nothing hub      nothing
./missing          nothing nothing  nothing  nothing nothing  nothing   no-check  nothing nothing  nothing
/no/such/folder    nothing nothing  nothing  nothing nothing  nothing   no-check  nothing nothing  nothing
run/checkpoint-9   no-part no-part  no-part  no-part no-part  nothing   no-check  no-part nothing  nothing
no.gguf            nothing nothing  nothing  nothing nothing  nothing   word      nothing nothing  nothing
by/rows.json       file    file     file     file    file     file      no-check  file    file     file
run/config.yaml    file    file     file     file    file     file      no-check  file    file     file
by/empty           none    none     none     none    none     no-data   foreign   none    no-model nothing
.                  none    none     none     none    none     no-data   word      none    no-model nothing
ROOT/by/prepared   none    none     none     none    none     ok        foreign   none    no-model ok
by/stopped         stopped stopped  stopped  stopped ok       not-data  is-run    stopped not-base ok
by/together/run    ok      ok       ok       ok      ok       not-data  is-run    ok      not-base ok
by/moved           moved   moved    moved    moved   ok       not-data  is-run    ok      not-base ok
by/dangling        nowhere nowhere  nowhere  nowhere nowhere  nowhere   no-check  nowhere nowhere  nowhere
by/loop            loop    loop     loop     loop    loop     loop      loop      loop    loop     loop
$NOT_SET/run       unset   unset    unset    unset   unset    unset     unset     unset   unset    unset
"""
SAYS = {
    "not-data": "is (a run|an adapter|a model), not a prepared dataset",
    "no-data": "is not a prepared dataset",
    "not-base": "is (a run|an adapter), not a model",
    "no-model": r"(is not a model: it has no config\.json|is prepared data, not a model)",
    "model": "is a base model, not (an adapter|a run|a checkpoint)",
    "part": "is an adapter in the run",
    "no-run": "is an adapter without a run, not a run",
    "is-run": "is a run, not a checkpoint in it",
    "no-state": "is an adapter, not a checkpoint: it has no optimizer state",
    "other-dir": "is not in output_dir",
    "foreign": "is not a checkpoint of qlora-fast",
    "no-check": "no checkpoint `",
    "word": "must be true, false, auto or the path of a checkpoint-N",
    "hub": "no tokenizer for `(owner/name|missing)`: not a local folder",
    "nothing": r"(no folder|no model file) `|holds nothing that can be verified",
    "no-part": "no adapter `run/checkpoint-9`",
    "file": "is a file",
    "none": "is not a run, an adapter or a model",
    "stopped": "has not finished: it has no adapter of its own yet",
    "moved": "the base model `/gone/models/other` of `by/moved` is not found",
    "nowhere": "is a link to `gone`, which is not there",
    "loop": "is a link that leads to itself",
    "unset": "names the environment variable `NOT_SET`, which is not set",
}
WITHOUT_HINT = {"loop", "nowhere", "unset", "word"}
"""Messages that say all there is to do."""
COLUMNS, *ROWS = (line.split() for line in TABLE.strip().splitlines())
SETTINGS = {
    "max_steps": 2, "num_train_epochs": 1, "val_size": 1, "cutoff_len": 32, "save_strategy": "steps", "save_steps": 1,
    "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": "true", "logging_steps": 1,
    "per_device_train_batch_size": 1, "plot_loss": "false",
}  # fmt: skip


def copy(run: Path, folder: Path, base: Path, elsewhere: str) -> Path:
    """A run whose base model is named to be elsewhere: as after a move, with every file as it was written."""
    shutil.copytree(run, folder)
    for name in ("config.yaml", "qlora_fast.json", "adapter_config.json"):
        for file in folder.rglob(name):
            file.write_text(file.read_text().replace(str(base), elsewhere))
    for listing in folder.rglob(manifest.MANIFEST):
        manifest.write(listing.parent)
    return folder


@pytest.fixture(scope="module")
def project(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with every kind of object."""
    root = tmp_path_factory.mktemp("project")
    by = root / "by"
    by.mkdir()
    base = Path(shutil.copytree(model_dir, by / "base"))
    rows = [{"instruction": f"Say {word}.", "output": word} for word in ("one", "two", "three")]
    (by / "rows.json").write_text(json.dumps(rows))
    run = trained(root, base, dataset=by / "rows.json", **SETTINGS)
    shutil.copytree(run, root / "go")
    (by / "peft").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(run / name, by / "peft")
    assert cli("merge", run, "-o", by / "merged", "--no-check").status == 0
    shutil.copytree(run, by / "stopped")
    for name in ("adapter_config.json", "adapter_model.safetensors", manifest.MANIFEST):
        (by / "stopped" / name).unlink()
    shutil.copytree(base, by / "together" / "models" / "base")
    copy(run, by / "together" / "run", base, "/gone/project/models/base")
    copy(run, by / "moved", base, "/gone/models/other")
    (by / "empty").mkdir()
    (by / "dangling").symlink_to("gone")
    (by / "loop").symlink_to("loop")
    (root / "link").mkdir()
    (root / "link" / "to").symlink_to(run)
    next((root / "prepared").iterdir()).rename(by / "prepared")
    (root / "prepared").rmdir()
    config_file(root, base, **{**SETTINGS, "dataset": by / "rows.json", "output_dir": root / "go"})
    return root


def words(column: str, name: str, root: Path, out: Path) -> tuple[str | Path, ...]:
    """The command line of a cell."""
    rows = root / "by" / "rows.json"
    config = root / "tiny.yaml"
    short = ("max_steps=1", "save_strategy=no", "eval_strategy=no", "load_best_model_at_end=false", "val_size=0")
    made: dict[str, Callable[[], tuple[str | Path, ...]]] = {
        "chat": lambda: ("chat", name, "--prompt", "Hi", "--max-new-tokens", "1"),
        "evaluate": lambda: ("evaluate", name, f"dataset={rows}"),
        "generate": lambda: ("generate", name, rows, "-o", out, "--max-new-tokens", "1"),
        "merge": lambda: ("merge", name, "-o", out, "--no-check"),
        "compare": lambda: ("compare", name),
        "export": lambda: ("export", name, "--to", out.with_suffix(".parquet")),
        "resume": lambda: ("train", config, f"resume_from_checkpoint={name}"),
        "parent": lambda: ("train", config, f"adapter_name_or_path={name}", f"output_dir={out}", *short),
        "base": lambda: ("merge", root / "run", "--base", name, "-o", out, "--no-check"),
        "doctor": lambda: ("doctor", name),
    }
    return made[column]()


@pytest.mark.parametrize("column", COLUMNS[1:])
def test_every_command_and_every_object(
    column: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("PROJECT", str(project))
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    at, wrong = COLUMNS.index(column), []
    for number, row in enumerate(ROWS):
        ran = cli(*words(column, row[0].replace("ROOT", str(project)), project, tmp_path / str(number)), cwd=project)
        said = next((short for short, text in SAYS.items() if re.search(text, ran.err)), "?")
        found = "ok" if ran.status == 0 else said
        if found != row[at] or (ran.status and found not in WITHOUT_HINT and "hint: " not in ran.err):
            wrong.append(f"{row[0]}: {found}, not {row[at]}: {ran.err[-300:]}")
    assert not wrong, "\n".join(wrong)
