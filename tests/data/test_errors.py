"""Errors of the core carry what they know as attributes: reason, path, line, column, row. Nothing is read out of text."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from oracle import TOKENIZER
from qlora_fast import _core
from qlora_fast.config import of
from qlora_fast.data.drop_reasons import REASONS
from qlora_fast.data.prepare import prepare_config, prepare_share
from qlora_fast.errors import ArtifactError, ConfigError, DataError, QloraFastError, TokenizerError

GOOD = {"instruction": "q", "output": "a"}
SETTINGS = {"model_name_or_path": str(TOKENIZER.parent), "template": "qwen3"}


def error_of(folder: Path, content: str | bytes, **settings: object) -> QloraFastError:
    """What preparing one file, given as text, raises."""
    path = folder / str(settings.pop("name", "data.json"))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = of(dataset=[str(path)], prepared_dir=str(folder / "prepared"), **SETTINGS, **settings)
    with pytest.raises(QloraFastError) as caught:
        prepare_config(config)
    assert caught.value.path in (path, None)
    return caught.value


def place(error: QloraFastError) -> tuple[int | None, int | None, int | None]:
    return error.line, error.column, error.row


def test_a_syntax_error_knows_its_place(tmp_path: Path) -> None:
    error = error_of(tmp_path, '[\n{"instruction": "q", "output": "a"},\n{"instruction": "q" "output": 1}]')
    assert isinstance(error, DataError)
    assert error.path == tmp_path / "data.json"
    assert place(error) == (3, 21, 1)
    assert error.reason is None
    assert f"{error.path}:3:21: row 1: " in error.message
    text = f"[{json.dumps(GOOD)} {{}}]"
    assert place(error_of(tmp_path, text)) == (1, text.index("{}") + 1, None)
    not_text = error_of(tmp_path, b'[{"instruction": "\xff", "output": "a"}]')
    assert place(not_text) == (1, 19, 0)


def test_a_strict_error_gives_the_reason_and_its_explanation(tmp_path: Path) -> None:
    error = error_of(tmp_path, json.dumps([GOOD, {"instruction": "q", "output": 3}], indent=0), strict=True)
    assert (error.reason, place(error)) == ("not_text", (6, None, 1))
    assert error.hint is not None
    assert str(REASONS["not_text"]) in error.hint


def test_where_no_row_is_left_the_first_one_is_told(tmp_path: Path) -> None:
    error = error_of(tmp_path, json.dumps([{"instruction": "q", "output": ""}, {"instruction": "q", "output": 3}]))
    assert (error.reason, place(error)) == ("empty_answer", (1, None, 0))
    assert error.hint is not None
    assert str(REASONS["empty_answer"]) in error.hint


@pytest.mark.parametrize("name", REASONS)
def test_no_file_name_is_taken_for_a_reason(name: str, tmp_path: Path) -> None:
    for file in (f"{name}.json", f"{name}:x.json"):
        error = error_of(tmp_path, '[{"instruction": "a" "output": "b"}]', name=file)
        assert error.reason is None
        assert not any(explanation.what in (error.hint or "") for explanation in REASONS.values())


def test_a_share_explains_like_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD, {"instruction": "q", "output": 3}]))
    config = of(dataset=[str(path)], prepared_dir=str(tmp_path / "prepared"), strict=True, **SETTINGS)
    with pytest.raises(DataError) as caught:
        prepare_share(config, number=1, count=1)
    assert str(REASONS["not_text"]) in str(caught.value.hint)


def test_files_folders_and_tokenizers_are_named(tmp_path: Path) -> None:
    assert place(error_of(tmp_path, "")) == (None, None, None)
    (tmp_path / "data.json").write_text(json.dumps([GOOD]))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError) as broken:
        _core.Tokenizer(str(tmp_path / "tokenizer.json"))
    assert broken.value.path == tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError) as missing:
        _core.Tokenizer(str(tmp_path / "nowhere.json"))
    assert missing.value.filename == tmp_path / "nowhere.json"
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError) as no_folder:
        prepare_config(of(dataset=[str(tmp_path / "data.json")], **SETTINGS), out=taken)
    assert no_folder.value.path == taken
    with pytest.raises(ConfigError) as wrong:
        _core.pack(np.array([1], dtype=np.uint32), 0)
    assert (wrong.value.path, wrong.value.reason, place(wrong.value)) == (None, None, (None, None, None))


def test_a_conversation_that_the_template_refuses_gives_its_reason() -> None:
    template = json.dumps({"jinja": "{{ raise_exception('no') }}"})
    encoder = _core.ChatEncoder(str(TOKENIZER), template, eos_token="<|im_end|>")
    talk = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
    with pytest.raises(DataError) as caught:
        encoder.encode(talk)
    assert caught.value.reason == "refused_by_the_template"


def test_what_an_error_knows_survives_another_process() -> None:
    error = DataError("message", "hint", reason="not_text", path=Path("a.json"), line=3, column=4, row=1)
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert str(copy) == "message"
