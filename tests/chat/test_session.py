"""The chat: greedy is transformers' greedy, text comes in whole characters, turns are remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tiny
from paths import FIXTURES
from prepared import random_dataset
from qlora_fast.chat.session import ChatSession, Sampling, load_chat_model
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ArtifactError, TokenizerError
from qlora_fast.runs.adapter_card import check_tokenizer, read_card, write_card
from qlora_fast.train import adapter_folder
from tiny_run import tiny_run

FOLDER = FIXTURES / "tokenizer"


def tokenizer() -> Tokenizer:
    return Tokenizer(FOLDER, "chatml", None, "<|im_end|>", None)


def vocabulary() -> int:
    described = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    ids = [*described["model"]["vocab"].values(), *(token["id"] for token in described["added_tokens"])]
    return max(ids) + 1


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny.qwen3(attention="sdpa", vocab_size=vocabulary())


@pytest.fixture
def session(model: torch.nn.Module) -> ChatSession:
    return ChatSession(model, tokenizer())


def script(monkeypatch: pytest.MonkeyPatch, session: ChatSession, text: str, *, stop: bool = True) -> list[int]:
    """Let the model say exactly this."""
    ids = session._encoder.encode_text(text)
    end = session._encoder.stop_ids()[:1] if stop else []

    def generate(self: ChatSession, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        yield from [*ids, *end]

    monkeypatch.setattr(ChatSession, "_generate", generate)
    return list(ids)


def test_greedy_is_what_transformers_generates(model: torch.nn.Module, session: ChatSession) -> None:
    prompt = [5, 9, 11, 4]
    ours = list(session._generate(prompt, Sampling(max_new_tokens=12)))
    theirs = model.generate(  # type: ignore[operator]
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert ours == theirs[0, 4:].tolist()


def test_sampling_follows_the_seed_and_the_nucleus(session: ChatSession) -> None:
    def draw(sampling: Sampling) -> list[int]:
        torch.manual_seed(3)
        return list(session._generate([5, 9], sampling))

    free = Sampling(temperature=1.5, max_new_tokens=10)
    assert draw(free) == draw(free)
    assert draw(free) != draw(Sampling(max_new_tokens=10))
    narrow = Sampling(temperature=1.5, top_p=1e-6, max_new_tokens=10)
    assert draw(narrow) == draw(Sampling(max_new_tokens=10)), "only the most likely token is left"


@pytest.mark.parametrize("text", ["Hello, world.", "héllo 👩‍🚀 世界 🇩🇪", " two  spaces\n\n", "naïve 🙂"])
def test_pieces_are_whole_characters_and_add_up(
    monkeypatch: pytest.MonkeyPatch, session: ChatSession, text: str
) -> None:
    script(monkeypatch, session, text)
    pieces = list(session.reply("hi", Sampling()))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert session.turns == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]


def test_half_a_character_at_the_end_is_shown_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, session: ChatSession
) -> None:
    ids = script(monkeypatch, session, "ok 🙂", stop=False)
    monkeypatch.setattr(ChatSession, "_generate", lambda *_: iter(ids[:-1]))
    said = "".join(session.reply("hi", Sampling()))
    assert said.startswith("ok")
    assert said.endswith("\ufffd") or said == "ok 🙂"[: len(said)]


def test_the_stop_token_ends_the_answer_and_is_not_shown(monkeypatch: pytest.MonkeyPatch, session: ChatSession) -> None:
    stop = session._encoder.stop_ids()[0]
    ids = session._encoder.encode_text("yes")
    monkeypatch.setattr(ChatSession, "_generate", lambda *_: iter([*ids, stop, *ids]))
    assert "".join(session.reply("hi", Sampling())) == "yes"


def test_what_was_said_is_remembered_when_the_listener_goes(
    monkeypatch: pytest.MonkeyPatch, session: ChatSession
) -> None:
    script(monkeypatch, session, "one two three four")
    answer = session.reply("hi", Sampling())
    first = next(answer)
    answer.close()  # type: ignore[attr-defined]
    assert session.turns[-1] == {"role": "assistant", "content": first}


def test_the_prompt_holds_the_turns_so_far(monkeypatch: pytest.MonkeyPatch, session: ChatSession) -> None:
    prompts: list[list[int]] = []

    def generate(self: ChatSession, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        prompts.append(prompt)
        yield from self._encoder.encode_text("fine")

    monkeypatch.setattr(ChatSession, "_generate", generate)
    for text in ("hello", "again"):
        list(session.reply(text, Sampling()))
    conversation = {"messages": session.turns[:3]}
    expected = session._encoder.encode(json.dumps(conversation), add_generation_prompt=True)[0].tolist()
    assert prompts[1] == expected


def test_a_trained_adapter_answers_through_a_cache_as_without(tmp_path: Path) -> None:
    base = tiny.save(tiny.qwen3(vocab_size=vocabulary()), tmp_path / "base")
    data = random_dataset(tmp_path / "p", 16, vocab=12, longest=30)
    run = tiny_run(data, model=tiny.adapted(tiny.qwen3(vocab_size=vocabulary()), warm=False), updates=8)
    run.run()
    (tmp_path / "adapter").mkdir()
    adapter_folder.write_adapter(tmp_path / "adapter", run.forward.model, run.adapter)
    model = load_chat_model(str(base), {"a": tmp_path / "adapter"}, torch.float32, torch.device("cpu"))
    prompt = [5, 3, 8, 1]
    with_cache = list(ChatSession(model, tokenizer())._generate(prompt, Sampling(max_new_tokens=10)))
    ids, trained = list(prompt), run.forward.model.eval()
    with torch.no_grad():
        for _ in range(10):
            ids.append(int(trained(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert with_cache == ids[4:]


def test_the_card_says_how_to_talk_and_refuses_another_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"qlora_fast\.json` is not found"):
        read_card(tmp_path)
    for damaged in ("", "[]", "null", "{", "{}", '{"base_model": 3, "template": "x", "tokenizer_sha256": "y"}'):
        (tmp_path / "qlora_fast.json").write_text(damaged)
        with pytest.raises(ArtifactError, match=r"qlora_fast\.json"):
            read_card(tmp_path)
    write_card(tmp_path, "base", tokenizer(), "abc")
    card = read_card(tmp_path)
    assert (card["base_model"], card["template"], card["eos_token"]) == ("base", "chatml", "<|im_end|>")
    check_tokenizer(card, "abc", "base")
    with pytest.raises(TokenizerError, match="not the one that the adapter was trained with"):
        check_tokenizer(card, "abd", "base")
