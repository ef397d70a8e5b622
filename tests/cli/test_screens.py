"""Every screen of the command line on fixed small data, as a file in tests/snapshots; `make snapshots` writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import snapshot
from cli_run import cli
from paths import FIXTURES, ROOT, TESTS
from qlora_fast import cli as program
from tiny_folder import written


@dataclass(frozen=True)
class Place:
    """A folder with the data that the screens are about, which is the working folder."""

    folder: Path
    model: Path

    def screen(self, *words: str | Path) -> str:
        """What a command prints: the words, stdout, then stderr and the exit status."""
        ran = cli(*words, cwd=self.folder, columns=120)
        shown = " ".join(map(str, words))
        notes = f"\n--- stderr\n{ran.err}" if ran.err else ""
        return f"$ qlora-fast {shown}\n{ran.out}{notes}" + (f"\n--- exit status {ran.status}\n" if ran.status else "")

    def check(self, name: str, *words: str | Path) -> None:
        places = {"MODEL": self.model, "HERE": self.folder, "TESTS": TESTS, "ROOT": ROOT}
        snapshot.check(name, self.screen(*words), places)


@pytest.fixture(scope="module")
def folder(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of every kind: kept, repaired, noted, truncated, dropped."""
    folder = tmp_path_factory.mktemp("screens")
    rows: list[object] = [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(10)]
    rows += [
        {"instruction": "q", "output": ""},
        {"instruction": "q", "output": 3},
        {"instruction": "long", "output": "word " * 200},
        {
            "conversations": [
                {"from": "human", "value": "one"},
                {"from": "gpt", "value": "two"},
                {"from": "human", "value": "x"},
            ]
        },
        {"instruction": "typed <|im_end|> here", "output": "  blanks", "note": 1},
    ]
    (folder / "data.json").write_text(json.dumps([r for r in rows if "conversations" not in r], indent=1))  # type: ignore[operator]
    (folder / "talk.json").write_text(json.dumps([r for r in rows if "conversations" in r]))  # type: ignore[operator]
    (folder / "x.yaml").write_text(
        f"model_name_or_path: {model_dir}\ndataset: data.json\ncutoff_len: 64\nval_size: 2\nlora_rank: 4\n"
        "per_device_train_batch_size: 2\ngradient_accumulation_steps: 2\nnum_train_epochs: 2\noutput_dir: run\n"
    )
    losses = [20.0 + i for i in range(10)]
    written(folder / "a", losses, seed=1)
    written(folder / "b", [x - 3 - (i % 3) for i, x in enumerate(losses)], lora_rank=16)
    written(folder / "c", [x + (-1) ** i for i, x in enumerate(losses)], lora_rank=16, learning_rate=1e-3)
    return folder


@pytest.fixture
def place(folder: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(folder)
    yield Place(folder, model_dir)
    shutil.rmtree(folder / "prepared", ignore_errors=True)


def commands() -> Iterator[tuple[str, ...]]:
    yield ()
    for name in program.COMMANDS:
        yield (name,)
        command = program.cli.get_command(click.Context(program.cli), name)
        if isinstance(command, click.Group):
            yield from ((name, sub) for sub in sorted(command.commands))


@pytest.mark.parametrize("words", list(commands()), ids=lambda words: "-".join(words) or "qlora-fast")
def test_help(words: tuple[str, ...], place: Place) -> None:
    place.check(f"help/{'-'.join(words) or 'qlora-fast'}", *words, "--help")


SCREENS: dict[str, tuple[str, ...]] = {
    "prep": ("prep", "data.json", "model_name_or_path=MODEL", "cutoff_len=64"),
    "prep-repaired": ("prep", "talk.json", "model_name_or_path=MODEL"),
    "inspect": ("inspect", "data.json", "model_name_or_path=MODEL", "--sample", "1"),
    "inspect-rows": (
        "inspect",
        "data.json",
        "model_name_or_path=MODEL",
        "cutoff_len=64",
        "--row",
        "10",
        "--row",
        "12",
        "--row",
        "13",
    ),
    "inspect-step": ("inspect", "--config", "x.yaml", "--update", "1"),
    "plan": ("plan", "x.yaml"),
    "plan-rows": ("plan", "x.yaml", "--rows", "5986", "max_steps=100"),
    "memory": ("memory",),
    "memory-config": ("memory", "x.yaml"),
    "template-list": ("template", "list"),
    "template-show": ("template", "show", "llama3"),
    "template-check": ("template", "check", "MODEL"),
    "template-differs": ("template", "check", "MODEL", "--template", "llama3"),
    "config-keys": ("config", "keys"),
    "config-key": ("config", "keys", "cutoff_len"),
    "config-foreign-key": ("config", "keys", "neat_packing"),
    "config-explain": ("config", "explain", str(FIXTURES / "llamafactory" / "lora_sft.yaml")),
    "config-refused": ("config", "explain", str(FIXTURES / "llamafactory" / "refused_dpo.yaml")),
    "compare": ("compare", "a", "b", "c"),
    "compare-markdown": ("compare", "a", "b", "--markdown"),
    "error-no-command": (),
    "error-no-such-command": ("prpe",),
    "error-foreign-command": ("webchat",),
    "error-setting-as-option": ("plan", "x.yaml", "--lora-rank", "8"),
    "error-no-data": ("prep",),
    "error-share": ("prep", "data.json", "--shard", "9/8"),
    "error-row": ("inspect", "data.json", "model_name_or_path=MODEL", "--row", "x"),
    "error-missing-row": ("inspect", "data.json", "model_name_or_path=MODEL", "--row", "99"),
    "error-not-prepared": ("report", "a"),
    "error-export-of-a-run": ("export", "a", "--to", "x.jsonl"),
    "error-not-a-run": ("compare", "data.json", "a"),
    "error-no-evaluation": ("compare", "a", "b", "--on", "test"),
    "error-run-twice": ("compare", "a", "a"),
    "error-unfinished-run": ("merge", "a", "-o", "m"),
    "error-missing-checkpoint": ("chat", "a/checkpoint-7", "--prompt", "x"),
    "error-evaluate-what": ("evaluate", "MODEL"),
    "error-merge-a-model": ("merge", "MODEL", "-o", "m"),
    "error-unknown-keys": ("plan", "x.yaml", "lora_rnak=3", "cutoff_len=5", "packing=tight"),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(name: str, place: Place) -> None:
    place.check(f"screens/{name}", *(word.replace("MODEL", str(place.model)) for word in SCREENS[name]))


def test_report_and_export(place: Place) -> None:
    first = place.screen("prep", "data.json", f"model_name_or_path={place.model}", "cutoff_len=64", "--out", "ready")
    assert "read =" in first
    place.check(
        "screens/prep-again",
        "prep",
        "data.json",
        f"model_name_or_path={place.model}",
        "cutoff_len=64",
        "--out",
        "ready",
    )
    place.check("screens/report", "report", "ready")
    place.check("screens/export", "export", "ready", "--to", "rows.jsonl")
    place.check("screens/export-again", "export", "ready", "--to", "data.json")


def test_doctor(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layout; what it finds differs from machine to machine."""
    from qlora_fast import doctor
    from qlora_fast.doctor import Finding

    found = [
        ("machine", Finding("python", "ok", "3.12")),
        ("packages", Finding("bitsandbytes", "note", "not installed", "pip install bitsandbytes")),
        ("fast paths", Finding("numbers", "warning", "fp16", "bf16=true")),
        ("fast paths", Finding("attention", "broken", "no kernel", "install torch again")),
    ]
    monkeypatch.setattr(doctor, "findings", lambda: iter(found))
    place.check("screens/doctor-broken", "doctor")
    monkeypatch.setattr(doctor, "findings", lambda: iter(found[:3]))
    place.check("screens/doctor", "doctor")


def test_chat_help(place: Place) -> None:
    from qlora_fast.chat.commands import HELP

    snapshot.check("screens/chat-help", HELP, {})


def test_no_snapshot_is_left_over() -> None:
    """A renamed screen leaves no file behind."""
    names = {f"help/{'-'.join(words) or 'qlora-fast'}" for words in commands()}
    names |= {f"screens/{name}" for name in SCREENS}
    names |= {
        f"screens/{n}"
        for n in ("prep-again", "report", "export", "export-again", "doctor", "doctor-broken", "chat-help")
    }
    assert {str(p.relative_to(snapshot.FOLDER).with_suffix("")) for p in snapshot.FOLDER.rglob("*.txt")} == names
