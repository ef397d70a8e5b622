"""What may stand behind `dataset`: containers, globs, folders, standard input, dataset_info.json; what is drawn from it."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_run import DATA, cli
from qlora_fast.config import Config, load
from qlora_fast.data import dataset_info, sources
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.prepare import Prepared, prepare_config, prepare_evals
from qlora_fast.data.selection import Selection, eval_rows, select
from qlora_fast.errors import ConfigError, DataError

DEMO = DATA / "demo"
ROWS = [{"instruction": f"question {i}", "input": "", "output": f"answer {i}"} for i in range(40)]
TALK = [
    {
        "conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": "a" * (i + 1)}],
        "tools": "[]",
        "score": i / 3,
    }
    for i in range(12)
]


@pytest.fixture
def settings(tmp_path: Path, model_dir: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": str(model_dir),
        "prepared_dir": str(tmp_path / "prepared"),
        "dataset_dir": str(tmp_path),
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows, ensure_ascii=False)
    if path.name.endswith(".jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def prepared(settings: dict[str, Any], *names: str, **more: Any) -> Prepared:
    return prepare_config(Config(**settings, dataset=list(names), **more))


def failure(settings: dict[str, Any], name: str) -> DataError | None:
    try:
        prepared(settings, name)
    except DataError as error:
        return error
    return None


def same(a: PreparedDataset, b: PreparedDataset) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x["input_ids"], y["input_ids"]) and np.array_equal(x["labels"], y["labels"])
        for x, y in zip(a, b, strict=True)
    )


# --- containers


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd"])
def test_parquet_gives_the_samples_of_the_plain_file(codec: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    talks = json.loads((DEMO / "tool_calls.json").read_text(encoding="utf-8"))
    parts = [json.loads(line) for line in (DEMO / "parts.jsonl").read_text(encoding="utf-8").splitlines()]
    turns = [
        {"messages": [{"role": m["role"], "content": str(m["content"])} for m in row["messages"]]} for row in parts
    ]
    for name, rows in (("alpaca", ROWS), ("talk", TALK), ("tools", talks), ("turns", turns)):
        write(tmp_path / f"{name}.json", rows)
        table = pa.Table.from_pylist(rows)
        # Small pages and row groups: lists reach over their borders.
        pq.write_table(table, tmp_path / name, compression=codec, row_group_size=5, data_page_size=200)
        plain = prepared(settings, f"{name}.json").open()
        columns = prepared(settings, name)
        assert same(plain, columns.open()), name
        assert columns.report["rows_read"] == len(rows)
        assert str(columns.open().origin(len(plain) - 1)).startswith(str(tmp_path / name))


def test_a_damaged_parquet_file_never_crashes(tmp_path: Path, settings: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(TALK), tmp_path / "whole", compression="zstd")
    whole = (tmp_path / "whole").read_bytes()
    refused = 0
    for at in range(4, len(whole), max(1, len(whole) // 80)):
        for number, damaged in enumerate((whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])):
            (tmp_path / "data").write_bytes(damaged)
            error = failure(settings, "data")
            assert error is not None or number == 1, "a truncated file was taken for whole"
            refused += error is not None
            assert error is None or ("data" in str(error) and error.hint)
    assert refused > 100


def test_parquet_null_is_a_missing_key(tmp_path: Path, settings: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [*ROWS[:3], TALK[0], {"instruction": None, "output": None}]
    names = ["instruction", "input", "output", "conversations"]
    pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in names} for row in rows]), tmp_path / "mixed")
    made = prepared(settings, "mixed")
    assert made.report["rows_kept"] == 4
    assert made.report["rows_dropped"] == {"unknown_format": 1}
    assert made.report["ignored_keys"] == {}


def test_a_damaged_archive_is_one_clear_message(tmp_path: Path, model_dir: Path) -> None:
    packed = gzip.compress(json.dumps(ROWS).encode())
    (tmp_path / "data.json.gz").write_bytes(packed[: len(packed) // 2])
    ran = cli("prep", "data.json.gz", f"model_name_or_path={model_dir}", cwd=tmp_path)
    assert ran.status == 1
    assert "`data.json.gz` is a gzip archive that ends too early" in ran.err
    assert "gzip -t data.json.gz" in ran.err
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["data.json.gz"]


def test_standard_input_is_prepared_like_a_file(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = prepared(settings, str(write(tmp_path / "rows.jsonl", ROWS)))
    made = []
    for content in (gzip.compress((tmp_path / "rows.jsonl").read_bytes()), (tmp_path / "rows.jsonl").read_bytes()) * 2:
        sources._standard_input.cache_clear()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        made.append(prepared(settings, "-"))
        assert same(made[-1].open(), plain.open())
        assert str(made[-1].open().origin(3)) == "-:4"
    # Named by its content: the same bytes are found again, wherever they were kept meanwhile.
    assert made[2].path == made[0].path != made[1].path == made[3].path
    assert made[0].path.name.startswith("stdin-")
    assert made[2].report["reused"]


def test_several_processes_cannot_share_standard_input(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources._standard_input.cache_clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="several processes cannot share") as error:
        prepared(settings, "-")
    assert error.value.hint == "write the data to a file and give its name"


# --- names


def test_globs_and_folders_are_read_in_order(
    tmp_path: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for name, rows in (("d/b.jsonl", ROWS[10:20]), ("d/a.json", ROWS[:10]), ("d/sub/c.json", ROWS[20:25])):
        write(tmp_path / name, rows)
    (tmp_path / "d" / "z.json.gz").write_bytes(gzip.compress(json.dumps(ROWS[30:]).encode()))
    (tmp_path / "d" / "notes.txt").write_text("no data")
    write(tmp_path / "d" / "dataset_info.json", [])
    folder = prepared(settings, "d")
    assert [Path(s["path"]).name for s in folder.report["sources"]] == ["a.json", "b.jsonl", "z.json.gz"]
    assert "not read in" in caplog.text
    assert "dataset_info.json, notes.txt, sub" in caplog.text
    assert same(prepared(settings, "d/*.json*").open(), folder.open())
    assert len(prepared(settings, "d/**/*.json").open()) == 15
    # One dataset, however many files: the first rows of all of them.
    first = prepared(settings, "d", max_samples=12)
    assert [s["rows"] for s in first.report["sources"]] == [10, 2, 0]
    caplog.clear()
    sources.resolve(["d/a.json", "d/*.json"], str(tmp_path))
    assert "is given twice" in caplog.text


@pytest.mark.parametrize(
    ("name", "said", "mend"),
    [
        ("none/*.json", "no file matches", "embedded datasets"),
        ("empty", "no data file in the folder", ".json"),
        ("rows.jsn", "no data file", "did you mean `rows.json`?"),
        ("identty", "no data file or dataset `identty`", "did you mean `identity`?"),
    ],
)
def test_names_that_stand_for_nothing(name: str, said: str, mend: str, tmp_path: Path) -> None:
    write(tmp_path / "rows.json", ROWS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=said) as caught:
        sources.resolve([name], str(tmp_path))
    assert caught.value.hint
    assert mend in caught.value.hint


# --- dataset_info.json


def listed(folder: Path, **entries: Any) -> None:
    (folder / dataset_info.FILE).write_text(json.dumps(entries), encoding="utf-8")


def test_llamafactorys_demo_folder_is_read_by_its_names(tmp_path: Path, settings: dict[str, Any]) -> None:
    for file in DEMO.iterdir():
        shutil.copy(file, tmp_path)
    listed(
        tmp_path,
        alpaca_en_demo={"file_name": "alpaca_en.json"},
        glaive_toolcall_en_demo={
            "file_name": "tool_calls.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "tools": "tools"},
        },
        kto_en_demo={
            "file_name": "messages.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        },
        v1_sft_demo={"file_name": "loss_weights.jsonl", "formatting": "openai"},
    )
    files = {
        "alpaca_en_demo": "alpaca_en.json",
        "glaive_toolcall_en_demo": "tool_calls.json",
        "kto_en_demo": "messages.json",
        "v1_sft_demo": "loss_weights.jsonl",
    }
    for name, file in files.items():
        assert same(prepared(settings, name).open(), prepared(settings, file).open()), name
    together = prepared(settings, *files)
    assert [s["dataset"] for s in together.report["sources"]] == list(files)


def test_columns_and_tags_are_renamed_and_the_others_stay(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain = [{"instruction": "q", "input": "context", "output": "a", "system": "s", "history": [["x", "y"]]}]
    write(tmp_path / "plain.json", plain)
    write(
        tmp_path / "renamed.json",
        [{"question" if k == "instruction" else k: v for k, v in plain[0].items()} for _ in "1"],
    )
    talk = [{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]
    write(tmp_path / "talk.json", talk)
    write(tmp_path / "tagged.json", [{"log": [{"who": "Q", "text": "q"}, {"who": "A", "text": "a"}]}])
    listed(
        tmp_path,
        # In LLaMA-Factory `query` would now be none, and every input lost.
        renamed={"file_name": "renamed.json", "columns": {"prompt": "question", "response": "output"}},
        no_input={"file_name": "renamed.json", "columns": {"prompt": "question", "query": ""}},
        tagged={
            "file_name": "tagged.json",
            "formatting": "sharegpt",
            "columns": {"messages": "log"},
            "tags": {"role_tag": "who", "content_tag": "text", "user_tag": "Q", "assistant_tag": "A"},
        },
    )
    assert same(prepared(settings, "renamed").open(), prepared(settings, "plain.json").open())
    assert same(prepared(settings, "tagged").open(), prepared(settings, "talk.json").open())
    without = prepared(settings, "no_input")
    assert without.report["ignored_keys"] == {"input": 1}
    assert without.path != prepared(settings, "renamed").path


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"hf_hub_url": "tatsu-lab/alpaca"}, "is on the Hugging Face hub (hf_hub_url: tatsu-lab/alpaca)"),
        ({"ms_hub_url": "x/y"}, "is on the ModelScope hub"),
        ({"script_url": "x"}, "no code of a dataset is ever run"),
        ({"cloud_file_name": "s3://x"}, "is in a cloud bucket"),
        ({"file_name": "a.json", "ranking": True}, "holds preference pairs (ranking)"),
        ({"file_name": "a.json", "subset": "en"}, "asks for a part of a hub dataset (subset: en)"),
        ({"file_name": "a.json", "split": "test"}, "(split: test)"),
        ({"file_name": "a.json", "folder": "x"}, "(folder: x)"),
        ({"file_name": "a.json", "formatting": "raw"}, "has the formatting `raw`"),
        ({"file_name": "a.json", "columns": {"images": "images"}}, "pictures are not trained on"),
        ({"file_name": "a.json", "columns": {"kto_tag": "label"}}, "preference marks are not trained on"),
        ({"file_name": "a.json", "columns": {"promt": "q"}}, "has unknown `columns`: `promt`"),
        ({"file_name": "a.json", "tags": {"user": "q"}}, "has unknown `tags`: `user`"),
        ({"file_name": "a.json", "num_samples": 0}, "has num_samples: 0"),
        ({}, "has no file_name"),
        ({"file_name": "nowhere.json"}, "has no file"),
        ([], "must be an object"),
    ],
)
def test_entries_that_are_refused_are_refused_by_name(entry: Any, said: str, tmp_path: Path) -> None:
    write(tmp_path / "a.json", ROWS)
    listed(tmp_path, mine=entry)
    with pytest.raises(DataError) as caught:
        sources.resolve(["mine"], str(tmp_path))
    assert said in str(caught.value)
    assert "`mine`" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 100_000 + "}", "\ufeff"])
def test_a_list_that_python_cannot_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset_info\.json"):
        sources.resolve(["mine"], str(tmp_path))


def test_a_broken_list_and_an_unknown_name(tmp_path: Path) -> None:
    write(tmp_path / "a.json", ROWS)
    listed(tmp_path, mine={"file_name": "a.json", "split": "train", "comment": "x"}, other={"file_name": "b.json"})
    assert sources.resolve(["mine", "mine"], str(tmp_path))[1].name == "mine#2"
    with pytest.raises(DataError, match="no data file or dataset `mind`"):
        sources.resolve(["mind"], str(tmp_path))
    with pytest.raises(DataError, match=r"no dataset `zzz`.*") as caught:
        sources.resolve(["zzz"], str(tmp_path))
    assert caught.value.hint == "it lists mine, other"
    (tmp_path / dataset_info.FILE).write_text('{"a": {\n"b" 3}}')
    with pytest.raises(DataError, match=r"dataset_info.json:2:5: not valid JSON"):
        sources.resolve(["mine"], str(tmp_path))


# --- what is drawn


def chosen(settings: dict[str, Any], *names: str, **more: Any) -> tuple[PreparedDataset, Selection]:
    config = Config(**settings, dataset=list(names), **more)
    made = prepare_config(config)
    evals = [e for _, e in prepare_evals(config)]
    return made.open(), select(made, config, evals)


def test_mix_strategies_say_what_they_take(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.json", ROWS[:30])
    write(tmp_path / "b.json", ROWS[30:])
    for strategy, expected in (("concat", (30, 10)), ("interleave_under", (10, 10)), ("interleave_over", (30, 30))):
        data, picked = chosen(settings, "a.json", "b.json", mix_strategy=strategy)
        files = Counter(Path(data.origin(i).file).name for i in picked.train_ids)
        assert (files["a.json"], files["b.json"]) == expected
        a, b = picked.shares
        assert (a.taken, a.repeated, a.unused) == (expected[0], 0, 30 - expected[0])
        assert (b.taken, b.repeated, b.unused) == (expected[1], expected[1] - 10, 0)
        again = chosen(settings, "a.json", "b.json", mix_strategy=strategy)[1]
        assert np.array_equal(again.train_ids, picked.train_ids)
    _, weighted = chosen(
        settings, "a.json", "b.json", mix_strategy="interleave_over", interleave_probs=[0.9, 0.1], val_size=8
    )
    a, b = weighted.shares
    assert a.held_out + b.held_out == len(weighted.eval_ids) == 8
    assert a.taken > 3 * b.taken
    assert b.unused == 0
    assert not set(weighted.train_ids) & set(weighted.eval_ids)
    assert str(a) == f"{a.taken:,} of 30 rows, {a.repeated:,} of them repeated, {a.held_out} held out"


def test_num_samples_draws_and_max_samples_cuts(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.json", ROWS)
    listed(tmp_path, few={"file_name": "a.json", "num_samples": 7}, many={"file_name": "a.json", "num_samples": 100})
    _, first = chosen(settings, "a.json", max_samples=5)
    assert first.train_ids.tolist() == [0, 1, 2, 3, 4]
    _, few = chosen(settings, "few")
    assert len(few.train_ids) == 7
    assert few.train_ids.tolist() != list(range(7))
    assert len(chosen(settings, "few", max_samples=5)[1].train_ids) == 5
    _, many = chosen(settings, "many")
    assert len(many.train_ids) == 100
    assert set(Counter(many.train_ids.tolist()).values()) == {2, 3}
    assert many.shares[0].repeated == 60
    config = Config(**settings, dataset=["a.json"], eval_dataset=["few"])
    assert len(eval_rows(prepare_evals(config)[0][1], config)) == 7


def test_each_eval_dataset_is_prepared_by_itself(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.json", ROWS[:30])
    write(tmp_path / "b.json", ROWS[30:])
    config = Config(**settings, eval_dataset=["a.json", "b.json"], max_samples=4)
    assert [(name, len(e.open())) for name, e in prepare_evals(config)] == [("a.json", 4), ("b.json", 4)]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["interleave_probs=0.5,0.5"], "needs mix_strategy"),
        (["mix_strategy=interleave_under", "interleave_probs=1"], "has 1 shares for 2 datasets"),
        (["mix_strategy=interleave_under", "interleave_probs=1,-1"], "must all be greater than 0"),
    ],
)
def test_mixing_settings_that_contradict(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(None, ["dataset=a,b", *words])


# --- duplicates


def test_a_question_is_never_on_both_sides(tmp_path: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    rows = [{"instruction": f"q{rng.integers(120)}", "output": f"a{rng.integers(3)}"} for _ in range(600)]
    write(tmp_path / "a.json", rows)
    leaky = chosen(settings, "a.json", val_size=0.2)
    assert leaky[0].questions is None
    data, picked = chosen(settings, "a.json", val_size=0.2, deduplicate="exact")
    distinct = {(r["instruction"], r["output"]) for r in rows}
    assert len(data) == len(distinct)
    assert data.manifest["rows_dropped"] == {"duplicate": 600 - len(distinct)}
    first = data.manifest["dropped_examples"][0]
    source = rows[first["row"]]
    assert rows.index(source) == first["first"]["row"] < first["row"]

    def asked(pair: tuple[PreparedDataset, Selection]) -> tuple[set[str], set[str]]:
        ids = pair[1].train_ids, pair[1].eval_ids
        train, held = ({rows[pair[0].origin(i).row]["instruction"] for i in side} for side in ids)
        return train, held

    assert set.intersection(*asked(leaky)), "the split by rows leaks here, or the test shows nothing"
    train, held = asked((data, picked))
    assert not train & held
    assert len(train | held) == len({r["instruction"] for r in rows})
    assert abs(len(picked.eval_ids) - 0.2 * len(data)) <= 3


def test_a_question_of_the_eval_dataset_is_not_trained_on(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.json", ROWS)
    write(tmp_path / "b.json", [{"instruction": "question 3", "output": "another answer"}, ROWS[5], ROWS[5]])
    _data, picked = chosen(settings, "a.json", eval_dataset=["b.json"], deduplicate="exact")
    assert picked.shares[0].left_out == 2
    assert {3, 5} == set(range(40)) - set(picked.train_ids.tolist())
    assert len(chosen(settings, "a.json", eval_dataset=["b.json"])[1].train_ids) == 40
    with pytest.raises(DataError, match=r"nothing of `a.json` is left"):
        chosen(settings, "a.json", eval_dataset=["a.json"], deduplicate="exact")


# --- as a user meets it


def test_prep_and_plan_show_what_was_taken(tmp_path: Path, model_dir: Path) -> None:
    write(tmp_path / "a.json", [*ROWS[:30], ROWS[0]])
    write(tmp_path / "b.json", ROWS[30:])
    words = [f"model_name_or_path={model_dir}", "deduplicate=exact"]
    ran = cli("prep", "a.json", "b.json", *words, cwd=tmp_path)
    assert ran.status == 0, ran
    assert "41 read = 40 kept + 1 dropped" in ran.out
    assert "1 duplicate" in ran.out
    (tmp_path / "x.yaml").write_text("dataset: a.json,b.json\nmix_strategy: interleave_under\nval_size: 4\n")
    ran = cli("plan", "x.yaml", *words, cwd=tmp_path)
    assert ran.status == 0, ran
    assert "a.json: " in ran.out
    assert "unused" in ran.out
    assert "held out" in ran.out


@pytest.mark.slow
def test_llamafactorys_own_folder_is_read_as_it_is(settings: dict[str, Any]) -> None:
    folder = Path(os.environ.get("QLORA_FAST_DATA", "absent")) / "datasets" / "llamafactory"
    if not folder.is_dir():
        pytest.skip("QLORA_FAST_DATA names no folder with the real data")
    named = {**settings, "dataset_dir": str(folder), "variables": {"name": "A", "author": "B"}}
    for name in ("identity", "alpaca_en_demo", "alpaca_zh_demo", "glaive_toolcall_en_demo", "glaive_toolcall_zh_demo"):
        made = prepared(named, name)
        assert made.report["rows_kept"] > 0.9 * made.report["rows_read"] > 0, name
    for name in ("mllm_demo", "dpo_en_demo", "alpaca_en"):
        with pytest.raises(DataError):
            prepared(named, name)


@pytest.mark.parametrize("name", sources.EMBEDDED)
def test_the_data_in_the_package_is_where_the_code_looks_for_it(name: str) -> None:
    (file,) = sources.resolve([name], "data")[0].files
    assert json.loads(Path(file).read_text(encoding="utf-8"))


@pytest.mark.parametrize("how", ["dots", "absolute", "link", "folder of links", "linked folder"])
def test_a_listed_file_outside_its_folder_is_read_only_if_that_is_asked_for(how: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "ds", tmp_path / "private"
    folder.mkdir()
    outside.mkdir()
    (outside / "x.json").write_text("[]")
    named = {"dots": "../private/x.json", "absolute": str(outside / "x.json")}.get(how, "mine")
    if how == "link":
        (folder / "mine").symlink_to(outside / "x.json")
    elif how == "folder of links":
        (folder / "mine").mkdir()
        (folder / "mine" / "a.json").symlink_to(outside / "x.json")
    elif how == "linked folder":
        (folder / "mine").symlink_to(outside)
    (folder / dataset_info.FILE).write_text(json.dumps({"d": {"file_name": named}}))
    with pytest.raises(DataError, match="names a file outside") as caught:
        sources.resolve(["d"], str(folder))
    assert "dataset_outside=true" in str(caught.value.hint)
    (found,) = sources.resolve(["d"], str(folder), outside=True)
    assert Path(found.files[0]).resolve() == (outside / "x.json").resolve()
    # What a person names is what that person wants.
    assert sources.resolve(["../private/x.json"], str(folder))[0].files


def test_a_listed_file_inside_its_folder_needs_no_setting(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "real" / "sub" / "x.json").write_text("[]")
    (tmp_path / "ds").symlink_to(tmp_path / "real")
    for name in ("sub/x.json", "sub/../sub/x.json", str(tmp_path / "ds" / "sub" / "x.json")):
        (tmp_path / "real" / dataset_info.FILE).write_text(json.dumps({"d": {"file_name": name}}))
        assert sources.resolve(["d"], str(tmp_path / "ds"))[0].files


def test_a_pipe_or_a_device_is_named_as_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("pipe.json", "/dev/zero"):
        with pytest.raises(DataError, match="is a pipe or a device, not a file"):
            sources.resolve([name], str(tmp_path))
