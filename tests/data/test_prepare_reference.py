"""Every token id and every learned span, against transformers' rendering and ``tokenizers``' ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oracle import DEMO, JINJA, TOKENIZER, Oracle
from qlora_fast import _core
from qlora_fast.data import templates
from qlora_fast.data.dataset import open_prepared
from reference_run import HOSTILE, LARGE, compare, prepare, shards


@pytest.mark.parametrize("template", JINJA)
@pytest.mark.parametrize("path", sorted(DEMO.iterdir()), ids=lambda p: p.name)
def test_ids_and_spans_are_those_of_transformers(tmp_path: Path, template: str, path: Path) -> None:
    report = prepare(tmp_path / "out", [path], template)
    ways = compare(open_prepared(tmp_path / "out"), report, path, Oracle(template))
    assert set(ways) <= {"equal", "not in the template"}
    if template == "qwen3":
        assert set(ways) == {"equal"}


FITTING = [
    name for name in _core.templates() if {*templates.written(name).get("control", [])} <= {*Oracle("qwen3").controls}
]


@pytest.mark.parametrize("template", FITTING)
def test_engines_and_thread_counts_give_the_same_bytes(tmp_path: Path, template: str) -> None:
    data = sorted(DEMO.iterdir())
    runs = [
        prepare(tmp_path / f"{engine}-{threads}", data, template, cutoff_len=200, engine=engine, threads=threads)
        for engine, threads in [("native", 1), ("native", 2), ("native", 3), ("tokenizers", 2)]
    ]
    folders = [shards(Path(run["path"])) for run in runs]
    assert all(f == folders[0] for f in folders)
    assert {run["engine"]["name"] for run in runs} == {"native", "tokenizers"}
    assert len({run["fingerprint"] for run in runs}) == 1
    manifests = {(Path(run["path"]) / "manifest.json").read_bytes() for run in runs}
    assert len(manifests) == 1


@pytest.mark.parametrize("template", JINJA)
def test_hostile_text_is_encoded_alike_by_both_engines_and_the_reference(tmp_path: Path, template: str) -> None:
    path = tmp_path / "hostile.jsonl"
    rows = [{"instruction": q, "output": a} for q in HOSTILE for a in HOSTILE]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    report = prepare(tmp_path / "out", [path], template, engine="native")
    prepare(tmp_path / "slow", [path], template, engine="tokenizers")
    assert shards(tmp_path / "out") == shards(tmp_path / "slow")
    oracle = Oracle(template)
    ways = compare(open_prepared(tmp_path / "out"), report, path, oracle)
    assert report["notices"]["control_token_kept_as_text"] == ways["lookalike"]
    # Qwen3's template itself turns `<think>` in an answer into its tags.
    said = [r["output"].replace("<think>x</think>", "") if template == "qwen3" else r["output"] for r in rows]
    tagged = [text + r["instruction"] for text, r in zip(said, rows, strict=True)]
    count = sum("</think>" in text or "</tool_call>" in text for text in tagged)
    assert report["notices"]["added_token_in_text"] == count
    dataset = open_prepared(tmp_path / "out")
    for i in range(len(dataset)):
        text = oracle.plain.decode(dataset.ids(i).tolist(), skip_special_tokens=False)
        assert text.count("\ufffd") == 0


def test_generation_prompts_are_those_of_transformers() -> None:
    talk = {"messages": [{"role": "user", "content": "Hi"}], "tools": []}
    for template in JINJA:
        encoder = _core.ChatEncoder(str(TOKENIZER), template)
        oracle = Oracle(template)
        for thinking in (False, True):
            text = oracle.render(talk, add_generation_prompt=True, enable_thinking=thinking)
            ids, spans = encoder.encode(
                json.dumps({"messages": talk["messages"]}), add_generation_prompt=True, enable_thinking=thinking
            )
            assert ids.tolist() == oracle.plain.encode(text, add_special_tokens=False).ids
            assert len(spans) == 0


def test_the_models_own_template_is_recognised() -> None:
    for template in JINJA:
        jinja = Oracle(template).wrapped.chat_template
        assert _core.detect_template(jinja, None, None) == template
    assert _core.detect_template("{{ messages[0].content }}", None, None) is None
    assert _core.detect_template("{% broken", None, None) is None


LARGE_CASES = [
    ("datasets/alpaca_data.json", "qwen3-0.6b", ("qwen3", "qwen", "chatml", "smollm2")),
    ("datasets/alpaca_data.json", "llama3", ("llama3",)),
    ("datasets/ruozhiba/ruozhiba_qa2449_gpt4o.json", "qwen3-0.6b", ("qwen3",)),
    ("datasets/sharegpt_zh_multi_turn.jsonl", "qwen3-0.6b", ("qwen3", "qwen")),
    ("datasets/sharegpt_zh_multi_turn.jsonl", "llama3", ("llama3",)),
    ("datasets/llamafactory/kto_en_demo.json", "qwen3-0.6b", ("qwen3",)),
    ("datasets/llamafactory/glaive_toolcall_en_demo.json", "qwen3-0.6b", ("qwen3", "qwen")),
    ("datasets/llamafactory/glaive_toolcall_zh_demo.json", "qwen3-0.6b", ("qwen3", "qwen")),
    ("datasets/llamafactory/reason_tool_use_demo_50.jsonl", "qwen3-0.6b", ("qwen3",)),
    ("datasets/llamafactory/v1_sft_demo.jsonl", "qwen3-0.6b", ("qwen3", "chatml")),
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "tokenizers"])
@pytest.mark.parametrize(("name", "tokenizer", "templates"), LARGE_CASES, ids=lambda v: str(v))
def test_real_data(tmp_path: Path, name: str, tokenizer: str, templates: tuple[str, ...], engine: str) -> None:
    path, tokenizer_file = LARGE / name, LARGE / "tokenizers" / tokenizer / "tokenizer.json"
    if not path.is_file() or not tokenizer_file.is_file():
        pytest.skip(f"{path} or its tokenizer is not here")
    for template in templates:
        report = prepare(tmp_path / template, [path], template, tokenizer_file, engine=engine)
        if engine == "native":
            ways = compare(open_prepared(tmp_path / template), report, path, Oracle(template, tokenizer_file))
            print(name, template, dict(ways), report["rows_dropped"], report["notices"])
        else:
            prepare(tmp_path / "fast", [path], template, tokenizer_file, engine="native")
            assert shards(tmp_path / "fast") == shards(tmp_path / template)
            for part in (tmp_path / "fast").iterdir():
                part.unlink()
            (tmp_path / "fast").rmdir()
