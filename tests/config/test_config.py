"""A Config is valid wherever it is made, and only `config` makes one of a person's words."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paths import ROOT
from qlora_fast.config import KEYS, Config, load, of, overrides
from qlora_fast.errors import ConfigError

PACKAGE = ROOT / "python" / "qlora_fast"


def test_a_config_cannot_hold_nonsense() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(cutoff_len=-5, truncation="nonsense", lora_rank="x", weight_decay=float("inf"))  # type: ignore[arg-type]
    assert str(caught.value).splitlines() == [
        "4 problems in the config",
        "  `lora_rank` must be a whole number of at least 1, not `x`",
        "  `cutoff_len` must be a whole number of at least 8, not `-5`",
        "  `truncation` must be one of structure, llamafactory, drop; not `nonsense`",
        "  `weight_decay` must be a finite number, not `inf`",
    ]


def test_a_changed_config_is_checked_again() -> None:
    with pytest.raises(ConfigError, match="`bf16` cannot be combined with dtype"):
        replace(Config(dtype="fp32"), bf16=True)


def test_equal_values_make_equal_configs() -> None:
    assert Config(num_train_epochs=3) == Config(num_train_epochs=3.0) == of(num_train_epochs="3")
    assert type(Config(num_train_epochs=3).num_train_epochs) is float


@pytest.mark.parametrize("name", sorted(KEYS))
def test_no_key_takes_what_is_not_of_its_type(name: str) -> None:
    for wrong in (object(), b"bytes", 1 + 2j, [object()], {1: object()}):
        with pytest.raises(ConfigError, match=f"`{name}` must be"):
            Config(**{name: wrong})  # type: ignore[arg-type]


def test_only_the_config_room_calls_the_constructor() -> None:
    calls = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "config"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Config"
    ]
    assert calls == []


def test_no_command_parses_settings_itself() -> None:
    """`partition("=")` on a word of the command line belongs to `config.overrides`; completion alone looks at halves."""
    found = {
        path.name
        for path in (PACKAGE / "cli").glob("*.py")
        if 'partition("=")' in path.read_text(encoding="utf-8") or 'dataset=")' in path.read_text(encoding="utf-8")
    }
    assert found <= {"words.py", "completion.py", "arguments.py"}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("dataset=[ok.json]", ["ok.json"]),
        ("dataset=a.json,b.json", ["a.json", "b.json"]),
        ("dataset=['a b.json', c.json]", ["a b.json", "c.json"]),
        ("lora_rank=1e1", 10),
        ("variables={name: K}", {"name": "K"}),
        ("eval_strategy=steps", "steps"),  # needs val_size, which the file may have
    ],
)
def test_words_become_values(word: str, value: Any) -> None:
    name = word.partition("=")[0]
    found = overrides([word])
    assert found == {name: value}
    assert type(found[name]) is type(value)


def test_all_wrong_words_are_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        overrides(["lora_rnak=3", "cutoff_len=x", "seed"])
    assert len(str(caught.value).splitlines()) == 4


def test_a_path_is_expanded_from_wherever_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STORE", str(tmp_path / "store"))
    text = (
        "output_dir: ~/runs/x\nprepared_dir: $STORE/p\ndataset: [~/a.json, '${STORE}/b.json']\neval_dataset: ~/e.json\n"
    )
    (tmp_path / "x.yaml").write_text(text)
    wanted = {
        "output_dir": f"{tmp_path}/runs/x",
        "prepared_dir": f"{tmp_path}/store/p",
        "dataset": [f"{tmp_path}/a.json", f"{tmp_path}/store/b.json"],
        "eval_dataset": [f"{tmp_path}/e.json"],
    }
    words = [
        "output_dir=~/runs/x",
        "prepared_dir=$STORE/p",
        "dataset=~/a.json,${STORE}/b.json",
        "eval_dataset=~/e.json",
    ]
    python: dict[str, Any] = {
        "output_dir": "~/runs/x", "prepared_dir": "$STORE/p", "dataset": ["~/a.json", "${STORE}/b.json"],
        "eval_dataset": ["~/e.json"],
    }  # fmt: skip
    for config in (load(tmp_path / "x.yaml").config, load(None, words).config, of(**python), Config(**python)):
        assert {name: getattr(config, name) for name in wanted} == wanted
    assert overrides(words) == wanted


PATHS = ["model_name_or_path", "template", "dataset", "dataset_dir", "eval_dataset", "prepared_dir", "output_dir",
         "resume_from_checkpoint"]  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_every_path_key_is_expanded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = overrides([f"{name}=~/checkpoint-5"])[name]
    assert found in (f"{tmp_path}/checkpoint-5", [f"{tmp_path}/checkpoint-5"])


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ConfigError, match="`output_dir` names the environment variable `NOWHERE`, which is not set"):
        load(None, ["output_dir=$NOWHERE/x"])


def test_other_text_keeps_its_tilde_and_dollar() -> None:
    made = of(default_system="~ costs $HOME", run_name="~x", variables={"name": "$HOME"})
    assert (made.default_system, made.run_name, made.variables) == ("~ costs $HOME", "~x", {"name": "$HOME"})


def test_a_base_that_is_a_folder_here_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert of(model_name_or_path="base").model_name_or_path == str(tmp_path / "base")
    assert of(model_name_or_path="owner/name").model_name_or_path == "owner/name"
    assert of().model_name_or_path == "smollm2-135m-instruct"
