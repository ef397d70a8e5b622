"""Everything a user can get wrong: one clear message (what, where, how to fix), the right exit code, nothing left behind.

The messages are snapshots in tests/data/messages.txt; `make snapshots` writes them again, to be reviewed in the diff.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_run import DATA, cli

SNAPSHOTS = DATA / "messages.txt"
GOOD = [{"instruction": "Say hi", "output": "Hi"}]


def text(content: str | bytes) -> Callable[[Path, Path], list[str | Path]]:
    """A data file with this content, to be prepared."""

    def make(folder: Path, model: Path) -> list[str | Path]:
        path = folder / "data.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["prep", "data.json", f"model_name_or_path={model}"]

    return make


def rows(*records: object, more: tuple[str, ...] = ()) -> Callable[[Path, Path], list[str | Path]]:
    def make(folder: Path, model: Path) -> list[str | Path]:
        return [*text(json.dumps(list(records), indent=1))(folder, model), *more]

    return make


def config(content: str, *words: str) -> Callable[[Path, Path], list[str | Path]]:
    def make(folder: Path, model: Path) -> list[str | Path]:
        (folder / "x.yaml").write_text(content.replace("MODEL", str(model)))
        (folder / "data.json").write_text(json.dumps(GOOD * 8))
        return [*(words or ("train",)), "x.yaml"]

    return make


def taken_folder(folder: Path, model: Path) -> list[str | Path]:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    return [*rows(*GOOD)(folder, model), "--out", "out"]


def taken_run(folder: Path, model: Path) -> list[str | Path]:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("mine")
    return config("model_name_or_path: MODEL\ndataset: data.json\noutput_dir: run\n")(folder, model)


def in_folder(*names: str) -> Callable[[Path, Path], list[str | Path]]:
    """A folder with files of these names, to be prepared."""

    def make(folder: Path, model: Path) -> list[str | Path]:
        for name in names:
            (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "data" / name).write_text(json.dumps(GOOD))
        return ["prep", "data", f"model_name_or_path={model}"]

    return make


def broken_duplicate(folder: Path, model: Path) -> list[str | Path]:
    """A hint belongs to the error's reason, never to a word in its text."""
    (folder / "duplicate.json").write_text('[{"instruction": "a" "output": "b"}]')
    return ["prep", "duplicate.json", f"model_name_or_path={model}"]


def data_as_config(folder: Path, model: Path) -> list[str | Path]:
    """YAML would read it for minutes if it were large."""
    (folder / "data.json").write_text(json.dumps(GOOD))
    return ["train", "data.json"]


def misspelt_run(folder: Path, model: Path) -> list[str | Path]:
    (folder / "runs" / "first").mkdir(parents=True)
    (folder / "runs" / "first" / "run.json").write_text("{}")
    return ["chat", "runs/frist"]


def stopped_run(folder: Path, model: Path) -> list[str | Path]:
    for name in ("checkpoint-3", "last"):
        (folder / "run" / name).mkdir(parents=True)
        (folder / "run" / name / "adapter_config.json").write_text("{}")
    return ["chat", "run"]


def foreign_tokenizer(folder: Path, model: Path) -> list[str | Path]:
    other = folder / "other"
    shutil.copytree(model, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 99_999, "content": "<|extra|>"})
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    return config(f"model_name_or_path: {other}\ndataset: data.json\noutput_dir: run\n")(folder, model)


def wrong_template(folder: Path, model: Path) -> list[str | Path]:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    other = folder / "other"
    other.mkdir()
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<|im_start|>"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    return [*rows(*GOOD)(folder, other), "template=chatml"]


CASES: dict[str, Callable[[Path, Path], list[str | Path]]] = {
    "Dolly's keys": rows(*[{"instruction": "q", "context": "", "response": "a", "category": "qa"}] * 3),
    "missing file": lambda folder, model: ["prep", "nowhere.json", f"model_name_or_path={model}"],
    "empty file": text(""),
    "empty array": text("[]"),
    "broken JSON at a line": text('[\n{"instruction": "a", "output": "b"},\n{"instruction": "a" "output": "b"}\n]'),
    "broken JSONL": text('{"instruction": "a", "output": "b"}\n{"instruction": "a", \n'),
    "broken JSON in a file named for a reason": broken_duplicate,
    "cut off": text('[{"instruction": "a", "output": "b"},\n{"instruction": "a", "outp'),
    "not JSON at all": text("instruction,output\na,b\n"),
    "not UTF-8": text(b'[{"instruction": "\xc4\xe3", "output": "b"}]'),
    "compressed": text(b"\x1f\x8b\x08\x00"),
    "a Python dict printed": text("{'instruction': 'a', 'output': 'b'}"),
    "a value of Python": text('{"instruction": "a", "input": None, "output": "b"}'),
    "a key without quotes": text('{instruction: "a", output: "b"}'),
    "a line break in a text": text('[{"instruction": "a", "output": "b\nc"}]'),
    "a backslash in a text": text('[{"instruction": "a", "output": "C:\\data"}]'),
    "commas in JSONL": text('{"instruction": "a", "output": "b"},\n{"instruction": "a", "output": "b"}'),
    "two records on a line": text('{"instruction": "a", "output": "b"}{"instruction": "a", "output": "b"}'),
    "a comment": text('# rows\n{"instruction": "a", "output": "b"}'),
    "typographic quotes": text('{"instruction": “a”, "output": "b"}'),
    "a pointer of Git LFS": text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
    "a web page": text("<!DOCTYPE html><title>404</title>"),
    "YAML": text("- instruction: a\n  output: b\n"),
    "a program": text('DATA = [{"instruction": "a", "output": "b"}]'),
    "bytes of another program": text(b"\x80\x04\x95\x00\x00"),
    "records under a key": text('{"version": 1, "data": [{"instruction": "a", "output": "b"}]}'),
    "records that are values": text('{"a": {"instruction": "a", "output": "b"}, "b": {"instruction": "a"}}'),
    "a question and its answer": rows({"question": "a", "answer": "b"}, {"question": "a", "answer": "b"}),
    "a question that nothing reads": rows({"prompt": "a", "output": "b"}, {"prompt": "a", "output": "b"}),
    "a table by columns": text('{"instruction": ["a", "b"], "output": ["c", "d"]}'),
    "turns under another key": rows({"dialog": [{"speaker": "a", "text": "b"}]}),
    "turns in parts": text('{"contents": [{"role": "user", "parts": [{"text": "a"}]}]}'),
    "turns as pairs": rows({"conversation": [{"human": "a", "assistant": "b"}]}),
    "turns as records": rows({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}),
    "lists of turns": rows([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
    "a tree of replies": text('{"prompt": {"text": "a", "replies": [{"text": "b", "replies": []}]}}'),
    "pairs of preference as turns": text('{"input": {}, "preferred_output": [{}], "non_preferred_output": [{}]}'),
    "pairs of preference": rows({"prompt": "a", "chosen": "b", "rejected": "c"}),
    "prompt and completion as turns": rows({"prompt": [{"role": "user"}], "completion": [{"role": "assistant"}]}),
    "lists in the place of objects": text('["a", "b"]\n["a", "b"]'),
    "the answer under another key": rows({"instruction": "a", "context": "", "response": "b"}),
    "unknown format": text('[{"text": "a"}, {"text": "b"}]'),
    "wrong types, strict": rows({"instruction": "a", "output": 3}, more=("strict=true",)),
    "a row without an answer, strict": rows(*GOOD, {"instruction": "a"}, more=("strict=true",)),
    "nothing survives": rows({"instruction": "a", "output": ""}, {"instruction": "a", "output": 3}),
    "cutoff too small": rows(*GOOD, more=("cutoff_len=8",)),
    "unknown key": config("lora_rnak: 3\nlora_rank: 8\nlora_rank: 9\n"),
    "no config": lambda folder, model: ["train", "nowhere.yaml"],
    "data in the place of a config": data_as_config,
    "folder taken, prep": taken_folder,
    "folder taken, train": taken_run,
    "a tokenizer that is not the model's": foreign_tokenizer,
    "a template that the tokenizer cannot write": wrong_template,
    "unknown template": rows(*GOOD, more=("template=qwen9",)),
    "no such model": config("model_name_or_path: owner/nothing\ndataset: data.json\n"),
    "no such layer": config(
        "model_name_or_path: MODEL\ndataset: data.json\nlora_target: q_proj,nix\noutput_dir: run\n"
    ),
    "placeholders unfilled": config("model_name_or_path: MODEL\ndataset: identity\n", "prep", "--config"),
    "no data named": config("model_name_or_path: MODEL\noutput_dir: run\n"),
    "data in a sub-folder": in_folder("train/a.jsonl"),
    "a folder of datasets": in_folder("dataset_info.json", "state.json", "data-00000-of-00001.arrow"),
    "a folder of datasets with splits": in_folder("dataset_dict.json", "train/state.json"),
    "YAML that needs quotes": config("dataset: *.json\n", "plan"),
    "YAML with a tab": config("dataset:\tdata.json\n", "plan"),
    "YAML with an indented line": config("dataset: data.json\n  lora_rank: 8\n", "plan"),
    "YAML with an open quote": config('dataset: "data.json\n', "plan"),
    "YAML without a blank": config("dataset:data.json\n", "plan"),
    "keys of other programs": config("max_len: 512\nper_device_batch_size: 2\nrank: 8\n", "plan"),
    "nothing left to train on": config("model_name_or_path: MODEL\ndataset: data.json\nval_size: 8\noutput_dir: run\n"),
    "chat with a folder without an adapter": lambda folder, model: ["chat", folder],
    "chat with a run's name misspelt": misspelt_run,
    "chat with a run that is not finished": stopped_run,
    "a model's folder that is not there": lambda folder, model: ["prep", "identity", "model_name_or_path=./models/x"],
}


def snapshots() -> dict[str, str]:
    if not SNAPSHOTS.is_file():
        return {}
    blocks = SNAPSHOTS.read_text(encoding="utf-8").split("\n### ")[1:]
    return {name: message for name, _, message in (b.partition("\n") for b in blocks)}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message(name: str, tmp_path: Path, model_dir: Path) -> None:
    words = CASES[name](tmp_path, model_dir)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    ran = cli(*words, cwd=tmp_path)
    assert ran.status == 1, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    said = ran.err.replace(str(model_dir), "MODEL").replace(str(tmp_path), "HERE").strip() + "\n"
    if os.environ.get("QLORA_FAST_SNAPSHOTS") == "write":
        known = {**snapshots(), name: said}
        SNAPSHOTS.write_text(
            "What a user sees when something is wrong; written by tests/test_bad_input.py.\n"
            + "".join(f"\n### {n}\n{known[n].strip()}\n" for n in CASES if n in known),
            encoding="utf-8",
        )
    assert snapshots()[name].strip() == said.strip()
    left = {p for p in tmp_path.rglob("*") if p.is_file()} - {tmp_path / p for p in before}
    # A run that prepared its data before it failed keeps that: it is whole, and found again.
    assert {p.name for p in left} <= {"manifest.json", "checksums.json", "shard-00000-00000.safetensors"}, left
    assert not [p for p in tmp_path.rglob("*") if ".tmp" in p.name or ".partial" in p.name]
