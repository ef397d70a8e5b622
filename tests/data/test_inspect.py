"""`inspect --row`: a row of the data before anything is prepared. It must say what the preparation then does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli_run import DATA, cli
from qlora_fast.config import Config
from qlora_fast.data.inspect import inspect_rows
from qlora_fast.data.prepare import prepare_config
from qlora_fast.data.tokenizer import tokenizer_of
from qlora_fast.errors import ConfigError, DataError, QloraFastError

BAD: list[Any] = [
    {"instruction": "q", "output": "a"},
    {"instruction": "q", "output": ""},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "word " * 400}], "id": 3},
    {"instruction": "q", "output": 3},
    7,
    {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    {"instruction": "q", "output": "a"},
]


@pytest.fixture
def settings(tmp_path: Path, model_dir: Path) -> dict[str, Any]:
    return {"model_name_or_path": str(model_dir), "prepared_dir": str(tmp_path / "prepared"), "cutoff_len": 128}


def inspected(config: Config, *places: str) -> list[dict[str, Any]]:
    return inspect_rows(config, None, places, tokenizer=tokenizer_of(config))


def bad_file(folder: Path) -> Path:
    path = folder / "bad.json"
    path.write_text(json.dumps(BAD, indent=1))
    return path


@pytest.mark.parametrize("name", ["alpaca_en.json", "messages.json", "loss_weights.jsonl", "tool_calls.json"])
def test_a_row_is_what_the_preparation_makes_of_it(name: str, settings: dict[str, Any]) -> None:
    config = Config(**settings, dataset=[str(DATA / "demo" / name)])
    prepared = prepare_config(config)
    dataset, rows = prepared.open(), prepared.report["rows_read"]
    found = inspected(config, *map(str, range(rows)))
    kept = [row for row in found if row["dropped"] is None]
    assert len(kept) == len(dataset)
    assert sum(row["tokens_cut"] for row in found) == prepared.report["tokens_cut"]
    for sample, row in enumerate(kept):
        origin = dataset.origin(sample)
        assert (origin.file, origin.row, origin.line) == (row["file"], row["row"], row["line"])
        assert row["input_ids"] == dataset.ids(sample).tolist()
        assert [list(span) for span in row["spans"]] == dataset.spans(sample).tolist()
        assert row["full_length"] == len(row["input_ids"]) + row["tokens_cut"]


def test_a_row_that_would_be_dropped_says_why_and_how_to_mend_it(settings: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**settings, dataset=[str(bad_file(tmp_path))], deduplicate="exact")
    report = prepare_config(config).report
    found = inspected(config, *map(str, range(len(BAD))))
    dropped = [(row["row"], row["dropped"]["reason"]) for row in found if row["dropped"]]
    assert dropped == [
        (row["row"], row["reason"]) for row in sorted(report["dropped_examples"], key=lambda r: r["row"])
    ]
    assert [row["row"] for row in found if row["dropped"] is None] == [0, 2]
    assert found[1]["dropped"]["mend"] == "write one, or leave the row out"
    assert found[6]["dropped"]["first"] == {"file": str(tmp_path / "bad.json"), "row": 0}
    assert [json.loads(row["record"]) for row in found] == BAD
    assert found[2]["ignored_keys"] == ["id"]
    whole = "".join(piece["text"] for piece in found[2]["text"])
    assert whole.count("word ") == 400
    assert found[2]["tokens_cut"] > 0


def test_only_what_stands_before_a_row_is_read(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = [json.dumps({"instruction": f"q{i}", "output": "a" * 1000}) for i in range(8000)]
    path = tmp_path / "torn.json"
    path.write_text("[" + ",\n".join(rows))
    config = Config(**settings, dataset=[str(path)])
    assert inspected(config, "5", "0")[0]["conversation"]["messages"][0]["content"] == "q5"
    with pytest.raises(DataError, match="the array is not closed"):
        inspected(config, "8000")
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["0", "7"], "bad.json` has no row 7: it has 7, from 0 to 6"),
        (["bad.json:9"], "bad.json` has no row 9"),
        (["x.json:0"], "no file `x.json` in the data"),
        (["-1"], "`-1` is not a row"),
        (["seven"], "`seven` is not a row"),
        (["9" * 30], "` is not a row"),
    ],
)
def test_a_row_that_is_not_there(places: list[str], message: str, settings: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**settings, dataset=[str(bad_file(tmp_path))])
    with pytest.raises(QloraFastError, match=message):
        inspected(config, *places)


def test_a_row_of_several_files_names_its_file(settings: dict[str, Any], tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"instruction": "other", "output": "x"}\n')
    config = Config(**settings, dataset=[str(bad_file(tmp_path)), str(other)])
    found = inspected(config, "other.jsonl:0", f"{tmp_path / 'bad.json'}:0", "other.jsonl:0")
    assert [Path(row["file"]).name for row in found] == ["other.jsonl", "bad.json", "other.jsonl"]
    with pytest.raises(ConfigError, match="row 0 of which file"):
        inspected(config, "0")


def test_the_command_shows_rows_to_people_and_to_scripts(model_dir: Path, tmp_path: Path) -> None:
    bad_file(tmp_path)
    words = ("inspect", "bad.json", f"model_name_or_path={model_dir}", "cutoff_len=64")
    shown = cli(*words, "--row", "1", "--row", "2", cwd=tmp_path)
    assert shown.status == 0, shown.err
    assert "row 1  bad.json:6  would be dropped: empty_answer" in shown.out
    assert 'record   {   "instruction": "q",   "output": ""  }' in shown.out
    assert "hint     write one, or leave the row out" in shown.out
    assert "row 2  bad.json:10  64 tokens" in shown.out
    assert "with cutoff_len=64" in shown.out
    assert "after truncation" in shown.out
    row = cli(*words, "--row", "2", "--json", cwd=tmp_path).json[0]
    assert len(row["input_ids"]) == len(row["labels"]) == len(row["tokens"]) == 64
    assert [m["role"] for m in row["conversation"]["messages"]] == ["user", "assistant"]
    assert not (tmp_path / "prepared").exists()
    assert cli(*words, "--row", "1", "--sample", "0", cwd=tmp_path).status == 2
