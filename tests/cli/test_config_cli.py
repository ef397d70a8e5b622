"""`qlora-fast config`: what scripts and people read off the table of settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cli_run import ROOT, cli
from qlora_fast.config import KEYS, load
from qlora_fast.config.foreign import RULES
from qlora_fast.config.keys import SECTIONS, about
from qlora_fast.config.reference import page
from qlora_fast.config.schema import schema

LF = ROOT / "tests" / "data" / "llamafactory"
VALIDATOR = jsonschema.Draft202012Validator(schema())


def complaints(text: str) -> list[str]:
    class Yaml12(yaml.SafeLoader):
        """What an editor reads: `no` is a word and 5e-5 a number, other than in PyYAML."""

    Yaml12.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    import re

    Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
    Yaml12.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"), list("-+0123456789")
    )
    return [error.message for error in VALIDATOR.iter_errors(yaml.load(text, Yaml12))]


def test_the_schema_is_a_valid_schema_with_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert set(schema()["properties"]) == {*KEYS, "extends"}
    assert cli("config", "schema").json == schema()


@pytest.mark.parametrize(
    "path",
    [
        *sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "templates"),
        *sorted(p for p in LF.glob("*.yaml") if "refused" not in p.name),
    ],
    ids=lambda p: p.name,
)
def test_a_config_that_loads_is_valid_in_an_editor(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("warmup_steps: 0.03", "warmup_steps: 3")
    text = text.replace("metric_for_best_model: accuracy", "metric_for_best_model: eval_accuracy")
    text = text.replace("bitsandbytes", "bnb").replace("max_steps: -1", "max_steps: 1")
    assert complaints(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "lora_rank: 0",
        "lora_rnak: 8",
        "packing: exakt",
        "lora_dropout: 1",
        "learning_rate: fast",
        "report_to: [comet]",
        "save_steps: 1.5",
        "save_steps: 0",
        "resume_from_checkpoint: newest",
    ],
)
def test_a_wrong_config_is_wrong_in_an_editor(text: str) -> None:
    assert complaints(text)


@pytest.mark.parametrize(
    "text",
    [
        "save_steps: 0.1\neval_steps: 1\nlogging_steps: 10",
        "resume_from_checkpoint: true",
        "resume_from_checkpoint: saves/x/checkpoint-500",
    ],
)
def test_a_key_of_two_types_is_right_in_an_editor(text: str) -> None:
    assert complaints(text) == []


def test_every_key_is_documented_in_full() -> None:
    for name in KEYS:
        assert len(about(name).help) > 10
        assert not about(name).help.endswith(".")
        assert f"| `{name}` |" in page()
    shown = [name for section in SECTIONS.values() for name in section.__dataclass_fields__]
    assert shown == list(KEYS)


def test_keys_lists_all_and_describes_one() -> None:
    everything = cli("config", "keys")
    assert all(name in everything.out for name in KEYS)
    one: dict[str, Any] = cli("config", "keys", "cutoff_len", "--json").json
    assert (one["default"], one["unit"], one["must"]) == ("2048", "tokens", "be at least 8")
    assert [k["key"] for k in cli("config", "keys", "--json").json] == list(KEYS)


def test_keys_knows_foreign_and_misspelt_names() -> None:
    assert "LLaMA-Factory's" in cli("config", "keys", "deepspeed").out
    assert "becomes packing" in cli("config", "keys", "neat_packing").out
    wrong = cli("config", "keys", "lora_rnak")
    assert (wrong.status, "lora_rank" in wrong.err) == (2, True)


def test_explain_as_table_and_as_json() -> None:
    table = cli("config", "explain", LF / "lora_sft.yaml")
    assert table.status == 0
    assert "ignored     trust_remote_code: true" in table.out
    assert "no remote code is ever run" in table.out
    found = cli("config", "explain", LF / "refused_dpo.yaml", "--json")
    assert found.status == 1
    assert found.json["loads"] is False
    assert {k["key"]: k["fate"] for k in found.json["keys"]}["stage"] == "refused"
    assert found.json["counts"]["refused"] == 1


def test_explain_of_a_file_that_is_not_there_is_an_error() -> None:
    ran = cli("config", "explain", "nowhere.yaml")
    assert (ran.status, "no config file" in ran.err) == (1, True)


def test_show_prints_what_loads_to_the_same_config(tmp_path: Path) -> None:
    shown = cli("config", "show", ROOT / "configs/guide/exp4.yaml", "seed=7")
    (tmp_path / "x.yaml").write_text(shown.out)
    assert load(tmp_path / "x.yaml").config == load(ROOT / "configs/guide/exp4.yaml", ["seed=7"]).config


def test_the_shipped_schema_and_reference_are_fresh() -> None:
    """`make docs` makes them again."""
    assert json.loads((ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8")) == schema()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").strip() == page().strip()
    assert len(RULES) > 300
