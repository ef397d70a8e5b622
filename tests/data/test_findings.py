"""What a preparation found is also reported by plan and train: one line, the counts, and a refusal where it is too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_run import cli
from oracle import TOKENIZER
from qlora_fast import _core
from qlora_fast.data.findings import max_positions
from qlora_fast.hub import resolve

TRAIN = ("output_dir=run", "max_steps=1", "lora_rank=2", "cutoff_len=64", "per_device_train_batch_size=2")


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    rows: list[dict[str, object]] = [{"instruction": f"q{i}", "output": "a", "id": i} for i in range(4)]
    rows += [{"instruction": "word " * 200, "output": "b"}, {"instruction": "no answer", "output": ""}]
    rows.append({"messages": [
        {"role": "system", "content": "one"}, {"role": "developer", "content": "two"}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "thinking": "because"},
    ]})  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "x.yaml").write_text("dataset: d.json\n")
    return tmp_path


def test_plan_and_train_say_the_same_as_prep(messy: Path, model_dir: Path) -> None:
    model = f"model_name_or_path={model_dir}"
    expected = (
        "7 rows read = 6 kept + 1 dropped (empty_answer 1)",
        "1 cut",
        "system_prompts_joined 1",
        "id 4",
        "thinking_read",
    )
    planned = cli("plan", "x.yaml", model, "cutoff_len=64", cwd=messy)
    trained = cli("train", "x.yaml", model, *TRAIN, cwd=messy)
    assert trained.status == 0, trained.err
    for text in expected:
        assert text in planned.out
        assert text in trained.err
    found = {
        f["name"]: f for f in json.loads((messy / "run" / "train_results.json").read_text())["preparation"]["findings"]
    }
    assert found["empty_answer"]["kind"] == "dropped"
    assert found["empty_answer"]["first"] == "d.json:1 (row 5)"
    assert found["cutoff_len"]["first"] == "d.json:1 (row 4)"
    assert found["id"] == {**found["id"], "kind": "ignored_key", "rows": 4}
    assert json.loads((messy / "run" / "run.json").read_text())["preparation"]["rows_dropped"] == 1


def test_a_column_that_names_nothing_is_named_with_the_keys_there_are(tmp_path: Path, model_dir: Path) -> None:
    rows = [{"question": "q", "context": "c", "answer": "a"}, {"question": "q2", "answer": "b"}]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "x.yaml").write_text("cutoff_len: 64\n")
    columns = {"prompt": "question", "query": "kontext", "response": "answer"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "d.json", "columns": columns}}))
    words = ("dataset=mine", "dataset_dir=.", f"model_name_or_path={model_dir}")
    for made in (cli("prep", "--json", *words, cwd=tmp_path), cli("plan", "x.yaml", *words, cwd=tmp_path)):
        assert made.status == 0, made.err
        assert "column_not_in_row:kontext" in made.out
        assert "context" in made.out
    found = json.loads(cli("prep", "--json", *words, cwd=tmp_path).out)
    assert found["notices"]["column_not_in_row:kontext"] == 2
    assert found["ignored_keys"] == {"context": 1}


def test_too_many_dropped_rows_stop_a_run_before_the_model_is_loaded(
    messy: Path, tmp_path: Path, model_dir: Path
) -> None:
    rows = [{"instruction": "q", "output": "a" if i == 0 else ""} for i in range(20)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    model = f"model_name_or_path={model_dir}"
    refused = cli("train", "x.yaml", model, *TRAIN, cwd=messy)
    assert refused.status == 1
    assert "19 of 20 rows were dropped, most as empty_answer (first: d.json:1 (row 1))" in refused.err
    assert "max_dropped_share" in refused.err
    assert not (messy / "run").exists()
    assert cli("train", "x.yaml", model, *TRAIN, "max_dropped_share=1", cwd=messy).status == 0


def test_a_key_of_another_training_says_what_becomes_of_it(messy: Path, tmp_path: Path, model_dir: Path) -> None:
    row = {"instruction": "<image>What is it?", "output": "a cat", "images": ["cat.png"], "label": False, "id": 7}
    (tmp_path / "d.json").write_text(json.dumps([row]))
    model = f"model_name_or_path={model_dir}"
    said = cli("prep", "d.json", model, cwd=messy).out
    assert "key `images` in 1 rows: only text is trained on" in said
    assert "key `label` in 1 rows: preference data (DPO, KTO) marks answers" in said
    assert "key `id` in 1 rows\n" in said
    found = json.loads(cli("plan", "x.yaml", model, "--json", cwd=messy).out)["preparation"]["findings"]
    texts = {f["name"]: f["text"] for f in found if f["kind"] == "ignored_key"}
    assert texts["label"].startswith("preference data")
    assert texts["id"] == "no format gives this key a meaning"
    assert "key `images`: only text is trained on" in cli("inspect", "d.json", "--row", "0", model, cwd=messy).out


def test_rows_longer_than_the_model_need_a_setting(messy: Path, tmp_path: Path, model_dir: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps([{"instruction": "q", "output": "word " * 2100}]))
    model, longer = f"model_name_or_path={model_dir}", [*TRAIN, "cutoff_len=8192"]
    said = "tokens, the model knows 2,048 positions"
    assert said in cli("prep", "d.json", model, "cutoff_len=8192", cwd=messy).out
    assert said in cli("plan", "x.yaml", model, "cutoff_len=8192", cwd=messy).out
    refused = cli("train", "x.yaml", model, *longer, cwd=messy)
    assert refused.status == 1
    assert said in refused.err
    assert "train_beyond_max_positions" in refused.err
    assert cli("train", "x.yaml", model, *longer, "train_beyond_max_positions=true", cwd=messy).status == 0


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({}, None),
        ({"max_position_embeddings": "many"}, None),
        ([], None),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        # Qwen's YaRN: the factor applies to the original length.
        ({"max_position_embeddings": 40960, "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
          "original_max_position_embeddings": 32768}}, 131072),
        # Llama 3.1 names the scaled length already.
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
          "original_max_position_embeddings": 8192}}, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_theta": 1e4}}, 4096),
    ],
)  # fmt: skip
def test_positions_of_a_model(tmp_path: Path, config: object, positions: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert max_positions(tmp_path) == positions


@pytest.mark.parametrize(
    ("longest", "positions"), [(4096, 4096), (1e30, None), (int(1e30), None), (None, None), ("many", None)]
)
def test_a_tokenizer_alone_may_name_the_models_positions(
    longest: object, positions: int | None, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": longest}))
    assert max_positions(tmp_path) == positions


def test_the_embedded_models_positions_are_known() -> None:
    assert max_positions(resolve.tokenizer_folder(resolve.EMBEDDED)) == 8192


@pytest.mark.parametrize("template", ["qwen3", "llama3"])
def test_calls_and_thoughts_of_turns_that_are_no_answers_are_counted(template: str, tmp_path: Path) -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    rows = [
        [{"role": "user", "content": "q", "tool_calls": [call]}],
        [{"role": "user", "content": "q", "reasoning_content": "hm"}],
        [{"role": "user", "content": "q"}, *[{"role": "tool", "content": "r", "thinking": "hm"}] * 2],
        [{"role": "user", "content": "q", "tool_calls": [], "reasoning_content": " "}],
    ]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps([{"messages": [*row, {"role": "assistant", "content": "a"}]} for row in rows]), "utf-8")
    options = {"data": [{"path": str(data)}], "tokenizer": str(TOKENIZER), "template": template, "cutoff_len": 200}
    report = _core.prepare({**options, "out": str(tmp_path / "out")})
    assert report["rows_kept"] == 4
    assert report["notices"]["content_left_out"] == 4
