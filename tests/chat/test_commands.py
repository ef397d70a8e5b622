"""The chat as a person has it: adapters swapped on one base, commands, Ctrl-C, one-shot and piped questions."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from chat_adapters import make_adapter
from cli_run import arguments, cli, environment
from qlora_fast.chat.commands import BASE, Chat, open_chat
from qlora_fast.chat.session import ChatSession, Sampling
from qlora_fast.cli import chat as command
from qlora_fast.cli import console, escape
from qlora_fast.errors import ArtifactError, ConfigError, DataError

GREEDY = Sampling(max_new_tokens=8)


@pytest.fixture(scope="module")
def adapters(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("chat")
    return make_adapter(root / "one.v1", model_dir, 1), make_adapter(root / "two", model_dir, 2, "Be two.")


def opened(*names: Path, **more: object) -> Chat:
    settings: dict[str, object] = {"base": None, "thinking": False, "sampling": GREEDY, "bits": None, "seed": 0, **more}
    return open_chat([str(n) for n in names], **settings)  # type: ignore[arg-type]


def say(chat: Chat, text: str) -> str:
    return "".join(chat.ask(text))


@pytest.fixture(scope="module")
def both(adapters: tuple[Path, Path]) -> Chat:
    return opened(*adapters)


@pytest.fixture
def chat(both: Chat) -> Chat:
    both.system, both.sampling = None, GREEDY
    both.use("one_v1")
    both.clear()
    return both


def test_each_adapter_says_what_it_says_alone(chat: Chat, adapters: tuple[Path, Path], model_dir: Path) -> None:
    assert list(chat.adapters) == ["one_v1", "two", BASE]
    alone = {"one_v1": opened(adapters[0]), "two": opened(adapters[1])}
    base = ChatSession(AutoModelForCausalLM.from_pretrained(model_dir).eval(), chat.adapters[BASE])
    said = {}
    # There and back again: nothing of one adapter stays behind.
    for name in ("one_v1", "two", BASE, "two", "one_v1"):
        chat.use(name)
        chat.clear()
        answer = say(chat, "Hello there")
        said.setdefault(name, answer)
        assert answer == said[name]
        expected = say(alone[name], "Hello there") if name in alone else "".join(base.reply("Hello there", GREEDY))
        if name in alone:
            alone[name].clear()
        else:
            base.turns.clear()
        assert answer == expected
    assert len(set(said.values())) == 3


def test_an_adapter_brings_its_own_system_prompt(chat: Chat) -> None:
    assert "system prompt" not in chat.command("/system")[0]
    chat.command("/adapter two")
    assert chat.command("/system") == ("Be two.", None)
    assert chat.session.tokenizer.default_system == "Be two."
    with pytest.raises(ConfigError, match="no adapter `three`"):
        chat.command("/adapter three")
    assert chat.command("/adapter")[0].splitlines() == ["  one_v1", "→ two", "  base"]


def test_commands_change_what_they_say(chat: Chat, caplog: pytest.LogCaptureFixture) -> None:
    say(chat, "one")
    say(chat, "two")
    assert len(chat.session.turns) == 4
    assert chat.command("/again") == ("", "two")
    assert [t["content"] for t in chat.session.turns[:1]] == ["one"]
    assert len(chat.session.turns) == 2
    chat.command("/system Answer like a pirate.")
    assert chat.session.turns == [{"role": "system", "content": "Answer like a pirate."}]
    say(chat, "one")
    chat.command("/clear")
    assert chat.session.turns == [{"role": "system", "content": "Answer like a pirate."}]
    shown = chat.command("/set temperature 0.7")[0]
    assert "temperature 0.7" in shown
    chat.command("/set top-p=0.9")
    chat.command("/set max_new_tokens 3")
    assert chat.sampling == Sampling(0.7, 0.9, 3)
    chat.without_thoughts = {chat.active}
    for _ in range(2):
        chat.command("/set thinking on")
        assert chat.session.enable_thinking
        chat.command("/set thinking off")
    assert caplog.text.count("was trained with enable_thinking: false") == 1
    for wrong in (
        "/set temperature hot",
        "/set top_p 2",
        "/set max_new_tokens 0",
        "/set thinking maybe",
        "/set size 3",
        "/dance",
    ):
        with pytest.raises(ConfigError):
            chat.command(wrong)
    assert chat.sampling == Sampling(0.7, 0.9, 3)
    assert "/adapter" in chat.command("/help")[0]
    with pytest.raises(EOFError):
        chat.command("/exit")


def test_equal_seeds_give_equal_answers(chat: Chat) -> None:
    chat.sampling = Sampling(1.5, 1.0, 12)
    answers = []
    for seed in (5, 5, 6):
        chat.command(f"/set seed {seed}")
        chat.clear()
        answers.append(say(chat, "Hello"))
    assert answers[0] == answers[1] != answers[2]


def test_a_conversation_that_is_too_long_is_said_and_taken_back(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat.session, "limit", 40)
    with pytest.raises(DataError, match=r"at most 40"):
        say(chat, "word " * 60)
    assert chat.session.turns == []
    monkeypatch.setattr(chat.session, "limit", len(chat.session._encoder.encode(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}), add_generation_prompt=True)[0]) + 2)  # fmt: skip
    say(chat, "Hi")
    assert chat.session.generated <= 2


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ChatSession._generate
    calls = []

    def interrupted(self: ChatSession, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        calls.append(prompt)
        if len(calls) == 1:
            yield from self._encoder.encode_text("I was saying")
            raise KeyboardInterrupt
        yield from plain(self, prompt, sampling)

    lines = iter(["tell me", "/set nonsense", KeyboardInterrupt, "go on", "", EOFError])

    def ask(prompt: str) -> str:
        line = next(lines)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr(ChatSession, "_generate", interrupted)
    monkeypatch.setattr(console, "ask", ask)
    command._converse(chat)
    shown = capsys.readouterr()
    assert shown.out.startswith("I was saying\n")
    assert "(stopped)" in shown.err
    assert "no setting `nonsense`" in shown.err
    assert "Ctrl-D or /exit ends the chat" in shown.err
    assert len(calls) == 2
    assert [t["content"] for t in chat.session.turns[:3]] == ["tell me", "I was saying", "go on"]


def test_adapters_of_different_bases_are_not_mixed(
    adapters: tuple[Path, Path], model_dir: Path, tmp_path: Path
) -> None:
    other = make_adapter(tmp_path / "other", model_dir, 3)
    card = json.loads((other / "qlora_fast.json").read_text())
    (tmp_path / "base").symlink_to(model_dir)
    (other / "qlora_fast.json").write_text(json.dumps({**card, "base_model": str(tmp_path / "base")}))
    with pytest.raises(ArtifactError, match="different base models"):
        opened(adapters[0], other)
    with pytest.raises(ArtifactError, match="is a base model, not an adapter"):
        opened(adapters[0], model_dir)
    # Named, it is one base.
    assert len(opened(adapters[0], other, base=str(model_dir)).adapters) == 3


def test_of_several_adapters_each_answers_a_prompt(adapters: tuple[Path, Path]) -> None:
    words = ("--max-new-tokens", "4", "--prompt", "Hello")
    asked = cli("chat", *adapters, "--json", *words)
    assert asked.status == 0, asked.err
    alone = [cli("chat", adapter, "--json", *words).json["answers"][0] for adapter in adapters]
    assert [a["answer"] for a in asked.json["answers"]] == [a["answer"] for a in alone]
    assert asked.json["adapter"] == ", ".join(a["adapter"] for a in alone)
    said = cli("chat", *adapters, *words).out
    assert said == "".join(f"{a['adapter']}> {escape.text(a['answer'])}\n" for a in alone)


def test_questions_one_by_one_as_json_and_from_a_pipe(adapters: tuple[Path, Path]) -> None:
    words = ("--temperature", "1.2", "--max-new-tokens", "6", "--seed", "7")
    ran = cli("chat", adapters[0], "--json", *words, "--prompt", "Hello", "--prompt", "Hello")
    assert ran.status == 0, ran.err
    first, second = ran.json["answers"]
    assert first["answer"] == second["answer"], "each question is alone, from the same seed"
    assert first["stopped"] in ("stop", "length")
    assert first["tokens"] <= 6
    assert ran.json["adapter"] == "one_v1"
    piped = subprocess.run(
        arguments("chat", adapters[0], *words), input="Hello\n\nBye\n", capture_output=True, text=True, env=environment(), check=True
    )  # fmt: skip
    assert piped.stdout.startswith(f"> Hello\n{first['answer']}\n> Bye\n")
