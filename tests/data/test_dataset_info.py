"""LLaMA-Factory's dataset_info.json: names for files, columns and roles; what is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from qlora_fast.data import dataset_info, sources
from qlora_fast.errors import DataError
from source_files import DEMO, ROWS, listed, prepared, same, write


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


@pytest.mark.parametrize("inner", [False, True])
def test_a_name_that_is_listed_twice_is_refused(inner: bool, tmp_path: Path) -> None:
    text = (
        '{"m": {"file_name": "a", "file_name": "b"}}' if inner else '{"m": {"file_name": "a"}, "m": {"file_name": "b"}}'
    )
    (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(DataError, match="`file_name` twice" if inner else "`m` twice"):
        sources.resolve(["m"], str(tmp_path))


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


@pytest.mark.parametrize("named", ["loop.json", "a\0b.json", "\ud800.json", "x" * 400, f"{'x' * 400}/x.json"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, named: str) -> None:
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / dataset_info.FILE).write_text(json.dumps({"d": {"file_name": named}}))
    for outside in (False, True):
        with pytest.raises(DataError, match="has no file") as caught:
            sources.resolve(["d"], str(tmp_path), outside=outside)
        assert caught.value.hint
    with pytest.raises(DataError, match="no data"):
        sources.resolve([named], str(tmp_path))


def test_a_link_in_a_folder_that_leads_to_itself_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.json").write_text("[]")
    (tmp_path / "mine" / "loop.json").symlink_to("loop.json")
    (tmp_path / dataset_info.FILE).write_text(json.dumps({"d": {"file_name": "mine"}}))
    assert sources.resolve(["d"], str(tmp_path))[0].files == (str(tmp_path / "mine" / "x.json"),)
