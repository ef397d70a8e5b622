"""Answers to every row of a file: the prompts of training, the answers of a chat, whatever the batch; continued after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chat_adapters import make_adapter
from cli_run import cli
from qlora_fast.chat import answers as module
from qlora_fast.chat.answers import Answer
from qlora_fast.chat.commands import open_chat
from qlora_fast.chat.generate import Job, generate
from qlora_fast.chat.scores import bleu_and_rouge, exact_match
from qlora_fast.chat.session import Sampling
from qlora_fast.errors import ArtifactError, ConfigError

WORDS = ["moon", "river", "stone bird", "a longer question about fish and trees", "dog?", "sun"]
GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def adapter(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("generate") / "adapter", model_dir, 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"instruction": word, "output": f"about {word}"} for word in WORDS]
    rows.insert(2, {"instruction": "no answer", "output": ""})
    path = tmp_path / "d.json"
    path.write_text(json.dumps(rows))
    return path


def job(adapter: Path, data: Path, out: Path, **more: object) -> Job:
    return Job(subject=str(adapter), data=[str(data)], out=out, sampling=GREEDY, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_those_of_a_chat(
    adapter: Path, data: Path, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = generate(job(adapter, data, tmp_path / "out.jsonl", batch_size=batch_size))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [a.reference for a in made] == [f"about {word}" for word in WORDS] == [line["reference"] for line in lines]
    assert [a.row for a in made] == [0, 1, 3, 4, 5, 6]
    chat = open_chat([str(adapter)], sampling=GREEDY)
    for answer, word in zip(made, WORDS, strict=True):
        chat.clear()
        assert answer.answer == "".join(chat.ask(word)).strip()
        assert answer.tokens == chat.session.generated
        assert answer.stopped == chat.session.stopped
        assert word in answer.prompt
        assert f"about {word}" not in answer.prompt


def test_an_interrupted_call_continues(
    adapter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = generate(job(adapter, data, tmp_path / "whole.jsonl", batch_size=2))
    batch, calls = module._batch, []

    def killed(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_batch", killed)
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        generate(job(adapter, data, out, batch_size=2))
    assert not out.exists()
    part = tmp_path / ".out.jsonl.part"
    part.write_text(part.read_text() + '{"file": "half a li')
    calls.clear()
    monkeypatch.setattr(module, "_batch", lambda *a: calls.append(a) or batch(*a))
    assert generate(job(adapter, data, out, batch_size=2)) == whole
    assert len(calls) == 2
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not part.exists()
    # Other questions are not continued.
    part.write_text('{"adapter": "another"}\n{"half')
    out.unlink()
    assert generate(job(adapter, data, out, batch_size=2)) == whole


def test_an_interrupted_call_draws_what_a_whole_one_draws(
    adapter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the process was killed inside a batch: its rows are answered again, with those that they shared it with."""
    monkeypatch.chdir(tmp_path)
    drawn = Sampling(temperature=1.5, max_new_tokens=6)
    whole = generate(replace(job(adapter, data, tmp_path / "whole.jsonl", batch_size=2), sampling=drawn))
    batch, calls = module._batch, []

    def killed(*arguments: object) -> Iterator[Answer]:
        calls.append(arguments)
        made = batch(*arguments)  # type: ignore[arg-type]
        if len(calls) == 2:
            yield next(made)
            raise KeyboardInterrupt
        yield from made

    monkeypatch.setattr(module, "_batch", killed)
    again = replace(job(adapter, data, tmp_path / "out.jsonl", batch_size=2), sampling=drawn)
    with pytest.raises(KeyboardInterrupt):
        generate(again)
    assert len((tmp_path / ".out.jsonl.part").read_text().splitlines()) == 1 + 2 + 1
    monkeypatch.setattr(module, "_batch", batch)
    assert generate(again) == whole


def test_what_exists_is_not_overwritten_and_what_held_nothing_out_says_so(
    adapter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(ArtifactError, match="exists already"):
        generate(job(adapter, data, tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    # A prompt longer than the model reads is reported, not cut.
    long = tmp_path / "long.json"
    long.write_text(json.dumps([{"instruction": "word " * 3000, "output": "a"}, {"instruction": "q", "output": "b"}]))
    made = generate(job(adapter, long, tmp_path / "long.jsonl"))
    assert [a.stopped == "too_long" for a in made] == [True, False]


def test_scores() -> None:
    def answer(said: str, wanted: str) -> Answer:
        return Answer("f", 0, 1, "p", wanted, said, 1, "stop")

    same = [answer("the cat sat on the mat", "the cat sat on the mat "), answer("今天天气很好", "今天天气很好")]
    assert exact_match(same) == 1.0
    assert bleu_and_rouge(same) == pytest.approx({"bleu_4": 100.0, "rouge_l": 1.0})
    other = [answer("the dog sat", "the cat sat"), answer("今天下雨", "今天天气很好")]
    figures = bleu_and_rouge(other)
    assert exact_match(other) == 0.0
    assert 0 < figures["rouge_l"] < 1
    # LCS of "the _ sat" is 2 of 3 words; of the Chinese 2 of 4 and 6 characters: F1 = 2·(2/4)(2/6)/(2/4 + 2/6) = 0.4.
    assert figures["rouge_l"] == pytest.approx((2 / 3 + 0.4) / 2)


def test_rows_that_are_dropped_are_reported(adapter: Path, data: Path, tmp_path: Path) -> None:
    ran = cli("generate", adapter, data, "-o", "out.jsonl", "--max-new-tokens", "1", cwd=tmp_path)
    assert ran.status == 0
    assert "7 rows read = 6 kept + 1 dropped (empty_answer 1)" in ran.err
    ran = cli("evaluate", adapter, f"dataset={data}", cwd=tmp_path)
    assert ran.status == 0
    assert "7 rows read = 6 kept + 1 dropped (empty_answer 1)" in ran.err


@pytest.mark.parametrize(
    "row", [{"instruction": "q"}, {"instruction": "q", "output": ""}, {"messages": [{"role": "user", "content": "q"}]}]
)
def test_questions_alone_are_refused_with_the_way_out(adapter: Path, tmp_path: Path, row: dict[str, object]) -> None:
    (tmp_path / "q.json").write_text(json.dumps([row]))
    ran = cli("generate", adapter, "q.json", "-o", "out.jsonl", cwd=tmp_path)
    assert ran.status == 1
    assert "any text will do" in ran.err


def test_the_command(adapter: Path, data: Path, tmp_path: Path) -> None:
    ran = cli("generate", str(adapter), str(data), "-o", "a.jsonl", "--max-new-tokens", "3", "--json", cwd=tmp_path)
    assert ran.status == 0, ran.err
    assert ran.json["rows"] == len(WORDS) == ran.json["stop"] + ran.json["length"]
    assert (tmp_path / "a.jsonl").is_file()
    refused = cli("generate", str(adapter), "-o", "b.jsonl", cwd=tmp_path)
    assert refused.status == 1
    assert "held nothing out" in refused.err


def test_held_out_rows_of_a_run(model_dir: Path, data: Path, tmp_path: Path) -> None:
    settings = [f"model_name_or_path={model_dir}", f"dataset={data}", "val_size=2", "max_steps=1", "lora_rank=2"]
    (tmp_path / "x.yaml").write_text("output_dir: run\ncutoff_len: 64\n")
    ran = cli("train", "x.yaml", *settings, cwd=tmp_path)
    assert ran.status == 0, ran.err
    done = cli("generate", "run", "-o", "a.jsonl", "--max-new-tokens", "2", "--json", cwd=tmp_path)
    assert done.json["rows"] == 2, done.err


def test_a_model_without_a_stop_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="no stop token"):
        module._generation(GREEDY, [], 4)
