"""Every option and argument of every command that can name a path expands ``~`` and environment variables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from qlora_fast.cli import cli
from qlora_fast.cli.arguments import Place, sort_words
from qlora_fast.config import Config, load
from qlora_fast.data.dataset import open_prepared
from qlora_fast.errors import ConfigError

NO_PATHS = {
    "settings",  # key=value: the config expands those that are paths
    "prep --shard", "export --columns", "inspect --row", "evaluate --name", "compare --on", "chat --prompt", "chat --system",
    "config example name", "config keys name",
}  # fmt: skip
"""The texts that name no path. A new parameter is a :class:`Place` or stands here."""


def parameters(command: click.Command = cli, name: str = "") -> Iterator[tuple[str, click.Parameter]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from parameters(below, f"{name} {word}".strip())
        return
    yield from ((f"{name} {p.opts[-1]}", p) for p in command.params)


def test_every_path_of_every_command_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    places = 0
    for name, parameter in parameters():
        if isinstance(parameter.type, Place):
            places += 1
            for given, wanted in (("~/x.y", "/home/me/x.y"), ("$DATA/x", "/data/x"), ("${DATA}/~", "/data/~")):
                assert str(parameter.type.convert(given, parameter, None)) == wanted, name
            with pytest.raises(ConfigError, match=r"`NOT_SET`, which is not set"):
                parameter.type.convert("$NOT_SET/x", parameter, None)
        elif isinstance(parameter.type, click.Path | click.File | click.types.StringParamType):
            assert {name, name.split()[-1]} & NO_PATHS, f"{name} may be a path: type=Place()"
    assert places > 25


def test_settings_and_odd_names_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("dataset=~/x", "variables={a: $B}", "Qwen/Qwen3-0.6B", "-"):
        assert Place().convert(word, None, None) == word
    (tmp_path / "a$b.json").write_text("[]")
    (tmp_path / "k=v").write_text("")
    assert Place().convert("a$b.json", None, None) == "a$b.json"
    assert sort_words(["k=v", "x=y", "f"]) == (["k=v", "f"], ["x=y"])


def test_what_a_command_writes_lies_where_the_path_points(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("lora_rank: 4\n")
    (tmp_path / "c.yaml").write_text("extends: $PLACE/base.yaml\noutput_dir: ~/out\n")
    ran = CliRunner().invoke(cli, ["config", "show", "$PLACE/c.yaml"], env={"HOME": "/home/me"})
    assert "lora_rank: 4" in ran.output
    assert "/home/me/out" in ran.output
    ran = CliRunner().invoke(cli, ["config", "show", "$NOWHERE/c.yaml"])
    assert "`NOWHERE`, which is not set" in str(ran.exception)
    (tmp_path / "d.json").write_text('[{"instruction": "a", "output": "b"}]')
    words = ["prep", "$PLACE/d.json", f"model_name_or_path={model_dir}", "--out", "$PLACE/out"]
    ran = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert len(open_prepared(tmp_path / "out")) == 1
    assert not [p.name for p in tmp_path.iterdir() if "$" in p.name or "~" in p.name]


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = "b\udcff"
    for _, parameter in parameters():
        if isinstance(parameter.type, Place):
            with pytest.raises(ConfigError, match="is not UTF-8: rename"):
                parameter.type.convert(bad, parameter, None)
    for setting in (
        f"output_dir={bad}",
        f"dataset=a,{bad}",
        f"variables=name={bad}",
        f"run_name={bad}",
        f"model_name_or_path={bad}",
    ):
        with pytest.raises(ConfigError, match=f"`{setting.split('=')[0]}` is not UTF-8"):
            load(None, [setting])
    (tmp_path / "c.yaml").write_text('run_name: "\\ud800"\n')
    with pytest.raises(ConfigError, match="`run_name` is not UTF-8"):
        load("c.yaml")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        Config(output_dir=bad)
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("value", ["x" * 400, "x/" * 3000])
def test_a_value_that_is_too_long_for_a_file_name_is_a_setting(value: str) -> None:
    word = f"default_system={value}"
    assert sort_words([word]) == ([], [word])
    assert Place().convert(word, None, None) == word
