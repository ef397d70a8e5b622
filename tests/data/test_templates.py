"""Templates that are written by hand, the model's own Jinja, and the check of one against the other."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from cli_run import ROOT, cli
from oracle import BOS, DEMO, EOS, JINJA, KNOW_TOOLS, TEXTS, TOKENIZER, Oracle, TextOracle, conversation, read_rows
from qlora_fast import _core
from qlora_fast.data import templates
from qlora_fast.data.dataset import open_prepared
from qlora_fast.errors import ConfigError, TokenizerError
from reference_run import HOSTILE, LARGE, compare, prepare, shards

JINJA_FILES = ROOT / "tests" / "data" / "chat_templates"
OWN_WAY = """
{%- for m in messages %}
{{- '<|im_start|>' + m.role | upper + ': ' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>ASSISTANT: ' }}{% endif %}"""


def jinja(name: str) -> str:
    return (JINJA_FILES / f"{name}.jinja").read_text(encoding="utf-8")


def model(folder: Path, chat_template: str | None, **more: Any) -> Path:
    """The tokenizer files of a model."""
    folder.mkdir(parents=True)
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    config = {"eos_token": "<|im_end|>", **({} if chat_template is None else {"chat_template": chat_template}), **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def own(folder: Path) -> templates.Own:
    from qlora_fast.data.tokenizer import own_template

    return own_template(str(folder))


# --- the model's own Jinja


# Qwen3's own makes several samples of a row: test_vendor_templates.py.
@pytest.mark.parametrize("template", [name for name in JINJA if name != "qwen3"])
@pytest.mark.parametrize("path", sorted(DEMO.iterdir()), ids=lambda p: p.name)
def test_a_models_own_jinja_gives_what_transformers_gives(tmp_path: Path, template: str, path: Path) -> None:
    oracle = Oracle(template)
    source = templates.jinja(oracle.wrapped.chat_template)
    report = prepare(tmp_path / "jinja", [path], source)
    if template not in KNOW_TOOLS and path.stem in ("parts", "tool_calls"):
        # What these print of an answer that calls a tool is an empty answer.
        assert report["rows_dropped"].keys() == {"answer_left_out_by_the_template"}
        return
    ways = compare(open_prepared(tmp_path / "jinja"), report, path, oracle)
    assert set(ways) <= {"equal", "not in the template"}
    assert report["template"] == "jinja"


@pytest.mark.parametrize("template", JINJA)
def test_a_models_own_jinja_gives_the_bytes_of_the_built_in_one(tmp_path: Path, template: str) -> None:
    talks = [t for p in sorted(DEMO.iterdir()) for row in read_rows(p) if (t := conversation(row)) is not None]
    plain = [t for t in talks if Oracle(template).knows(t) and not t["tools"]]
    if template == "qwen3":  # its own template has a sample for each of several answers
        plain = [t for t in plain if sum(m["role"] == "assistant" for m in t["messages"]) == 1]
    path = tmp_path / "plain.jsonl"
    rows = [{"messages": [{k: m[k] for k in ("role", "content")} for m in t["messages"]]} for t in plain]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    for settings in ({}, {"train_on_prompt": True}, {"mask_history": True}):
        built_in = prepare(tmp_path / f"built-in{settings}", [path], template, **settings)
        source = templates.jinja(jinja(JINJA[template]))
        theirs = prepare(tmp_path / f"jinja{settings}", [path], source, **settings)
        assert theirs["rows_kept"] == built_in["rows_kept"] > 10
        if settings.get("train_on_prompt"):
            assert theirs["tokens"] == built_in["tokens"]
        else:
            assert shards(Path(theirs["path"])) == shards(Path(built_in["path"]))


@pytest.mark.parametrize("template", JINJA)
def test_text_never_becomes_a_control_token_in_a_models_own_jinja(tmp_path: Path, template: str) -> None:
    path = tmp_path / "hostile.jsonl"
    rows = [{"instruction": q, "output": a} for q in HOSTILE for a in HOSTILE]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    report = prepare(tmp_path / "out", [path], templates.jinja(jinja(JINJA[template])))
    dataset = open_prepared(tmp_path / "out")
    oracle = Oracle(template)
    controls = {i for i, token in oracle.plain.get_added_tokens_decoder().items() if token.special}
    compare(dataset, report, path, oracle)
    usual = _count(_encode(jinja(JINJA[template]), "q", "a"), controls)
    for i in range(len(dataset)):
        assert _count(dataset.ids(i).tolist(), controls) == usual, rows[dataset.origin(i).row]
    assert report["rows_dropped"].keys() <= {"empty_answer"}
    assert sum(report["rows_dropped"].values()) < len(rows) // 4


def _encode(chat_template: str, question: str, answer: str) -> list[int]:
    encoder = _core.ChatEncoder(str(TOKENIZER), templates.jinja(chat_template))
    talk = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    return encoder.encode(json.dumps(talk))[0].tolist()


def _count(ids: list[int], wanted: set[int]) -> int:
    return sum(i in wanted for i in ids)


def test_a_row_that_a_template_refuses_is_dropped_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    turns = [{"role": r, "content": r} for r in ("system", "user", "assistant")]
    path.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[1:]}) + "\n")
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + jinja("chatml")
    report = prepare(tmp_path / "out", [path], templates.jinja(refuses))
    assert report["rows_kept"] == 1
    assert report["rows_dropped"] == {"refused_by_the_template:no system": 1}
    blind = "{% for m in messages if m.role == 'user' %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    with pytest.raises(Exception, match="answer_left_out_by_the_template"):
        prepare(tmp_path / "blind", [path], templates.jinja(blind))


def test_generation_prompts_and_stops_of_a_models_own_jinja() -> None:
    talk = {"messages": [{"role": "user", "content": "Hi <|im_end|>"}], "tools": []}
    for template in JINJA:
        oracle = Oracle(template)
        theirs = _core.ChatEncoder(str(TOKENIZER), templates.jinja(oracle.wrapped.chat_template))
        ours = _core.ChatEncoder(str(TOKENIZER), template)
        for thinking in (False, True):
            asked = {"add_generation_prompt": True, "enable_thinking": thinking}
            text = json.dumps({"messages": talk["messages"]})
            assert theirs.encode(text, **asked)[0].tolist() == ours.encode(text, **asked)[0].tolist()
        assert theirs.stop_ids() == ours.stop_ids()


@pytest.mark.parametrize("source", ["qwen3", "qwen", templates.jinja(jinja("qwen2_5"))], ids=["qwen3", "qwen", "jinja"])
def test_a_bare_offer_of_tools_is_wrapped_as_servers_do(source: str, tmp_path: Path) -> None:
    bare = {"name": "rain", "description": "Whether it rains", "parameters": {"type": "object", "properties": {}}}
    offers = [[bare], [{"type": "function", "function": bare}]]
    turns = [{"from": "human", "value": "Rain?"}, {"from": "gpt", "value": "No."}]
    path = tmp_path / "rows.jsonl"
    rows = [{"conversations": turns, "tools": json.dumps(offer)} for offer in offers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = prepare(tmp_path / "out", [path], source)
    dataset = open_prepared(tmp_path / "out")
    assert dataset.ids(0).tolist() == dataset.ids(1).tolist()
    assert report["notices"]["tools_wrapped"] == 1


@pytest.mark.parametrize("template", ["alpaca", "vicuna", "plain", "chatml", "qwen3"])
@pytest.mark.parametrize("question", ["Say it.", "\n\nSay it.\n\n", "  Say: ", "\u4e2d\u6587"])
def test_a_cut_row_has_the_ids_of_the_whole_one(template: str, question: str, tmp_path: Path) -> None:
    """What is cut is an end: the frame in front is tokenized as ever, and the generation prompt is a prefix."""
    answer = "\n one two, three four" * 60
    path = tmp_path / "row.json"
    path.write_text(json.dumps([{"instruction": question, "output": answer}]), encoding="utf-8")
    prepare(tmp_path / "whole", [path], template)
    prepare(tmp_path / "cut", [path], template, cutoff_len=300)
    whole, cut = (open_prepared(tmp_path / name).ids(0).tolist() for name in ("whole", "cut"))
    assert len(whole) > 400
    assert cut == whole[: len(cut)]
    assert 290 < len(cut) <= 300
    encoder = _core.ChatEncoder(str(TOKENIZER), template, eos_token="<|endoftext|>")
    asked = json.dumps({"messages": [{"role": "user", "content": question}]})
    prompt = encoder.encode(asked, add_generation_prompt=True)[0].tolist()
    assert cut[: len(prompt)] == prompt


@pytest.mark.parametrize("template", ["alpaca", "vicuna", "chatml"])
def test_a_cut_question_keeps_the_frame_of_a_whole_one(template: str, tmp_path: Path) -> None:
    question = "Tell me one two, three four" * 120
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": question, "output": "five"}]), encoding="utf-8")
    prepare(tmp_path / "whole", [path], template)
    prepare(tmp_path / "cut", [path], template, cutoff_len=400)
    whole, cut = (open_prepared(tmp_path / name).ids(0).tolist() for name in ("whole", "cut"))
    assert len(cut) == 400
    before = next(i for i, (a, b) in enumerate(zip(whole, cut, strict=False)) if a != b)
    behind = next(i for i, (a, b) in enumerate(zip(whole[::-1], cut[::-1], strict=False)) if a != b)
    # Nothing but tokens of the question is gone.
    assert before + behind >= 400
    assert whole[-behind:] == cut[-behind:]


# --- built-in ones, through Python


@pytest.mark.parametrize("template", TEXTS)
def test_segments_are_what_transformers_prints(template: str, tmp_path: Path) -> None:
    """Over all demo dialogues of plain turns, with the tokens that the template needs."""
    tokenizer = json.loads(TOKENIZER.read_text(encoding="utf-8"))
    written = templates.written(template)
    known = {t["content"] for t in tokenizer["added_tokens"]}
    first = max(t["id"] for t in tokenizer["added_tokens"]) + 1
    for n, token in enumerate(t for t in [*written.get("control", []), BOS, EOS] if t not in known):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        tokenizer["added_tokens"].append({"id": first + n, "content": token, "special": True, **flags})
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    encoder = _core.ChatEncoder(str(path), template, bos_token=BOS, eos_token=EOS)
    oracle = TextOracle(template)
    compared = 0
    for row in (row for p in sorted(DEMO.iterdir()) for row in read_rows(p)):
        talk = conversation(row)
        if talk is None or talk["tools"] or any(m["role"] == "tool" or len(m) > 3 for m in talk["messages"]):
            continue
        messages = [{k: m[k] for k in ("role", "content")} for m in talk["messages"]]
        try:
            expected = oracle.render({"messages": messages})
        except Exception:
            continue  # two questions in a row, for one
        segments = encoder.segments(json.dumps({"messages": messages}))
        assert "".join(text for _, text, _ in segments) == expected
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("name", ["gemma", "phi3", "llama3", "llama3_2", "qwen2_5", "qwen3"])
def test_the_models_true_templates_are_found(name: str) -> None:
    path = LARGE / "tokenizers" / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    bos = {"gemma": "<bos>"}.get(name, "<|begin_of_text|>")
    found = _core.detect_template(path.read_text(encoding="utf-8"), bos, "<|eos|>")
    assert found == {"qwen2_5": "qwen"}.get(name, name)


def test_a_tokenizer_that_begins_texts_with_a_blank_gives_the_whole_texts_ids(tmp_path: Path) -> None:
    """Llama-2's answers are learned from within a line: no second blank may come where learning begins."""
    path = LARGE / "tokenizers" / "llama2" / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    folder = model(tmp_path / "m", jinja("llama2"), bos_token=BOS, eos_token=EOS)
    shutil.copy(path, folder / "tokenizer.json")
    ran = cli("template", "check", folder, "--json")
    assert ran.status == 0, ran.out
    assert ran.json["template"] == "llama2"
    assert sum(p["tokens"] > 0 for p in ran.json["probes"]) >= 6


def sentencepiece(path: Path, scheme: str) -> Path:
    """A small tokenizer with a mark for each blank, of which some merge with what follows."""
    words = ["▁hi", "hi", "▁[", "▁t", "there", "▁hello", "hello", "▁you", "]▁", "\n\n", "\n\nth"]
    letters = sorted({c for word in words for c in word} | set("INST/[]. \n"))
    vocab = ["<unk>", BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if pair not in merges:
                merges.append(pair)
                vocab.append(word[:end])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    file = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": token, "special": True, **flags} for i, token in ((1, BOS), (2, EOS))],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(dict.fromkeys(vocab))},
            "merges": merges,
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
        },
    }
    path.write_text(json.dumps(file), encoding="utf-8")
    return path


@pytest.mark.parametrize("engine", ["native", "tokenizers"])
@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_a_mark_in_front_of_a_text_stands_where_the_tokenizer_puts_it(scheme: str, engine: str, tmp_path: Path) -> None:
    """With `first`, text behind a control token gets none: the whole dialogue has the ids of its text."""
    from tokenizers import Tokenizer

    path = sentencepiece(tmp_path / "tokenizer.json", scheme)
    encoder = _core.ChatEncoder(str(path), "llama2", engine=engine, bos_token=BOS, eos_token=EOS)
    assert encoder.engine == engine
    turns = [("user", "hi there"), ("assistant", "hello you"), ("user", "\n\nthere"), ("assistant", "\nhi.\n")]
    talk = json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})
    text = "".join(text for _, text, _ in encoder.segments(talk))
    assert text.startswith(f"{BOS}[INST] hi there [/INST]")
    whole = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False)
    assert encoder.encode(talk)[0].tolist() == whole.ids, whole.tokens


# --- written ones


def test_the_example_is_a_template(tmp_path: Path) -> None:
    example = ROOT / "configs" / "templates" / "example.yaml"
    source = templates.read(str(example))
    assert templates.name_of(source) == "example"
    encoder = _core.ChatEncoder(str(TOKENIZER), source, eos_token="<|endoftext|>")
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    learned = "".join(text for _, text, learned in encoder.segments(json.dumps(talk)) if learned)
    assert learned == " Hello<|endoftext|>"


def test_a_shown_template_reads_back_as_itself(tmp_path: Path) -> None:
    for name in _core.templates():
        written = templates.written(name)
        path = tmp_path / f"{name}.yaml"
        path.write_text(templates.as_yaml(written).replace(f"name: {name}", "name: mine"), encoding="utf-8")
        assert json.loads(templates.read(str(path))) == {
            k: str(v).lower() if isinstance(v, bool) else v for k, v in {**written, "name": "mine"}.items()
        }


MISTAKES = [
    ("user: '{content}'\nasistant: '{content}{eos}'\n", ["t.yaml:2", "unknown key `asistant`", "`assistant`?"]),
    ("user: 'U'\nassistant: '{content}{eos}'\n", ["t.yaml:1", "`user` must hold {content}"]),
    ("user: '{content}'\nassistant: '{content}'\n", ["t.yaml:2", "never ends"]),
    ("user: '{contents}{content}'\nassistant: '{content}{eos}'\n", ["t.yaml:1", "{contents} means nothing"]),
    ("control: '<x>'\nuser: '{content}'\nassistant: '{content}{eos}'\n", ["t.yaml:1", "must be a list"]),
    ("control: ['<x>']\nuser: '{content}'\nassistant: '{content}{eos}'\n", ["no part of the template has `<x>`"]),
    ("user: '{content}'\nassistant: '{content}{eos}'\nthinking: deep\n", ["deep", "none"]),
    ("user: '{content}'\nassistant: '{content}{eos}'\nname: qwen3\n", ["t.yaml:3", "`qwen3` is the name of another"]),
    ("user: '{content}'\nuser: '{content}'\nassistant: '{content}{eos}'\n", ["t.yaml:2", "is set twice"]),
    ("user: '{content}'\nassistant: 'A{content}{eos}'\ngeneration_prompt: B\n", ["t.yaml:3", "must be how"]),
    ("- a\n", ["must be lines of `key: value`"]),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES, ids=[str(i) for i in range(len(MISTAKES))])
def test_mistakes_in_a_template_are_named_with_their_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        templates.read(str(path))
    for word in words:
        assert word in str(raised.value)


def test_names_that_are_none() -> None:
    with pytest.raises(TokenizerError) as raised:
        templates.read("lama3")
    assert "did you mean `llama3`" in (raised.value.hint or "")
    with pytest.raises(TokenizerError, match="no template file"):
        templates.read("nowhere.yaml")


# --- which one is taken


def test_auto_takes_the_built_in_one_else_the_models_own(tmp_path: Path) -> None:
    assert templates.choose("auto", own(model(tmp_path / "a", jinja("qwen3")))).source == "qwen3"
    chosen = templates.choose("auto", own(model(tmp_path / "b", OWN_WAY)))
    assert templates.name_of(chosen.source) == "jinja"
    assert "own Jinja" in (chosen.note or "")
    for i, hopeless in enumerate(["{{ messages[0].content }}", "{% broken", "{{ raise_exception('no') }}", None]):
        with pytest.raises(TokenizerError, match="no template for"):
            templates.choose("auto", own(model(tmp_path / f"c{i}", hopeless)))
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": jinja("chatml")}]
    assert templates.choose("auto", own(model(tmp_path / "d", several))).source == "chatml"  # type: ignore[arg-type]


BOMBS = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    "doubling": "{% set ns = namespace(s='x' * 999) %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "join": "{{ range(99999)|join('x' * 1000000) }}",
    "indent": "{{ messages|tojson(indent=10 ** 9) }}",
    "recursion": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_template_that_costs_too_much_is_stopped_soon(bomb: str, tmp_path: Path) -> None:
    """Also where `auto` only looks at the model."""
    begun = time.process_time()
    with pytest.raises(TokenizerError, match="stopped"):
        templates.choose("auto", own(model(tmp_path / "m", bomb)))
    assert time.process_time() - begun < 2


def test_a_named_template_that_is_not_the_models_own_is_noted(tmp_path: Path) -> None:
    here = own(model(tmp_path / "m", jinja("qwen3")))
    assert templates.choose("qwen3", here).note is None
    note = templates.choose("qwen", here).note or ""
    assert "template `qwen` differs from the model's own on " in note
    assert "qlora-fast template check" in note
    assert templates.choose("qwen", own(model(tmp_path / "n", None))).note is None


def test_the_template_that_auto_takes_is_not_noted_when_it_is_named(tmp_path: Path) -> None:
    """SmolLM2's leaves tools out, the built-in one appends them to the system prompt: `init` writes its name all the same."""
    here = own(model(tmp_path / "m", jinja("smollm2")))
    assert templates.choose("auto", here).source == "smollm2"
    assert any(not probe["agrees"] for probe in templates.compare("smollm2", here))
    assert templates.choose("smollm2", here).note is None


# --- the command


def test_check_says_identical_or_the_first_differing_token(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", jinja("qwen3"))
    same = cli("template", "check", folder)
    assert (same.status, same.out.splitlines()[-1]) == (0, "identical"), same
    other = cli("template", "check", folder, "--template", "qwen", "--json")
    assert other.status == 1
    probes = {p["probe"]: p for p in other.json["probes"]}
    first = probes["one turn"]["difference"]
    tokenizer = Oracle("qwen3").plain
    assert first["position"] == 1
    assert first["before"] == [[tokenizer.token_to_id("<|im_start|>"), "<|im_start|>"]]
    assert first["ours"][0] != first["own"][0]
    assert probes["prompt, thinking"]["difference"] is None
    person = cli("template", "check", folder, "--template", "qwen")
    assert person.status == 1
    assert "differs at token 1" in person.out
    assert "probes differ" in person.out.splitlines()[-1]


@pytest.mark.parametrize("template", ["qwen3", "qwen2_5", "chatml", "smollm2", "llama3"])
def test_check_of_a_models_own_jinja_against_itself(tmp_path: Path, template: str) -> None:
    from qlora_fast.config import Config
    from qlora_fast.data.template_check import check_template
    from qlora_fast.data.tokenizer import tokenizer_for

    folder = model(tmp_path / "m", jinja(template))
    here, tokenizer = tokenizer_for(Config(model_name_or_path=str(folder), template="jinja"))
    verdicts = check_template(here, tokenizer)
    assert len(verdicts) >= 8
    assert [v for v in verdicts if v.difference is not None] == []


def test_list_and_show_and_what_they_refuse(tmp_path: Path) -> None:
    listed = cli("template", "list", "--json").json
    assert [t["name"] for t in listed] == _core.templates()
    shown = cli("template", "show", "llama3")
    assert shown.status == 0
    assert 'control: ["<|begin_of_text|>"' in shown.out
    assert cli("template", "show", "nothing").status == 1
    bare = cli("template", "check", model(tmp_path / "m", None), "--template", "chatml")
    assert bare.status == 1
    assert "no chat template of its own" in bare.err


def test_prep_says_when_the_template_is_not_the_models_own(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", jinja("qwen3"))
    words = (DEMO / "alpaca_en.json", f"model_name_or_path={folder}", f"prepared_dir={tmp_path / 'p'}")
    ran = cli("prep", *words, "template=qwen", cwd=tmp_path)
    assert ran.status == 0, ran.err
    assert "differs from the model's own" in ran.out
    again = cli("prep", *words, "--json", cwd=tmp_path)
    assert again.json["template"] == "qwen3"
    assert again.json["template_note"] is None
