"""Hostile model and adapter folders: each ends in one clear error within seconds, and none of its code runs."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from reliability.case import Campaign, Case, Failure, ended_well, no_crash, refused
from reliability.command import Ran
from reliability.world import World

_TIMEOUT_S = 20
NOT_JSON = {
    "empty": b"", "blank": b" \n", "a list": b"[]", "null": b"null", "cut": b"{", "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not UTF-8": b'{"a": "\xff"}',
}  # fmt: skip


def header(content: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content + body


def tensor(**about: Any) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **about}}).encode()


WEIGHTS = {
    "empty": b"", "seven bytes": b"1234567", "header of 2^63": header(b"{}", length=2**63), "header of 2^40": header(b"{}", length=2**40),
    "header longer than the file": header(b"{}", length=1000), "120 MB of blanks": header(b"{" + b" " * 120_000_000 + b"}"),
    "a list": header(b"[1]"), "deep": header(b"[" * 200_000 + b"]" * 200_000), "not UTF-8": header(b'{"\xff":1}'),
    "offsets are text": header(tensor(data_offsets="x")), "a negative shape": header(tensor(shape=[-2]), b"\0" * 8),
    "a shape that overflows": header(tensor(shape=[2**33, 2**33]), b"\0" * 8),
    "behind the end": header(tensor(data_offsets=[8, 16]), b"\0" * 8),
    "overlapping": header(
        json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [s, s + 8]} for n, s in (("a", 0), ("b", 4))}).encode(), b"\0" * 12
    ),
}  # fmt: skip
ADAPTER_FIELDS: dict[str, dict[str, Any]] = {
    "r 10^9": {"r": 10**9}, "r -1": {"r": -1}, "r 0": {"r": 0}, "r text": {"r": "x"}, "r missing": {"r": None},
    "alpha NaN": {"lora_alpha": float("nan")}, "alpha infinite": {"lora_alpha": float("inf")}, "peft_type unknown": {"peft_type": "EVIL"},
    "rank_pattern backtracks": {"rank_pattern": {"(([a-z]+)+)+!": 4}}, "modules_to_save text": {"modules_to_save": "x"},
}  # fmt: skip
HARMLESS_FIELDS: dict[str, dict[str, Any]] = {
    "target_modules backtracks": {"target_modules": "(([a-z._0-9]+)+)+!"}, "target_modules is no regex": {"target_modules": "((("},
    "auto_mapping names os": {"auto_mapping": {"base_model_class": "system", "parent_library": "os"}}, "unknown key": {"evil": 1},
    "layers_to_transform 10^9": {"layers_to_transform": [10**9]},
}  # fmt: skip
"""Fields that are not needed: which modules are adapted is in the names of the weights. Refused or not, nothing may hang."""
INDEXES = {
    "a list": "[]", "a list in it": '{"weight_map": []}', "a number": '{"weight_map": {"a": 5}}', "cut": "{", "null": "null",
    "../outside": '{"weight_map": {"a": "../outside.safetensors"}}', "/etc/passwd": '{"weight_map": {"a": "/etc/passwd"}}',
    "missing file": '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
}  # fmt: skip
MODEL_FIELDS: dict[str, dict[str, Any]] = {
    "vocab_size text": {"vocab_size": "many"}, "layers 10^9": {"num_hidden_layers": 10**9}, "hidden_size -1": {"hidden_size": -1},
    "hidden_size 0": {"hidden_size": 0}, "heads 0": {"num_attention_heads": 0}, "model_type unknown": {"model_type": "nothing"},
    "model_type a list": {"model_type": ["qwen3"]}, "rope_scaling text": {"rope_scaling": "x"}, "hidden_act unknown": {"hidden_act": "evil"},
    "torch_dtype unknown": {"torch_dtype": "float7", "dtype": "float7"}, "intermediate_size of another model": {"intermediate_size": 7},
    "vocab_size smaller than the tokenizer": {"vocab_size": 10}, "num_key_value_heads 3": {"num_key_value_heads": 3},
}  # fmt: skip
TEMPLATES = {
    "a syntax error": "{{ messages[", "an endless range": "{% for i in range(10**12) %}x{% endfor %}",
    "nested ranges": "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
    "doubling": "{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
    "join": "{{ ('x' * 99999) | join('x' * 99999) }}", "indent": "{{ messages | tojson(indent=1000000000) }}",
    "a huge product": "{{ 'x' * 99999999999 }}", "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "raises": "{{ raise_exception('no') }}", "deep": "{% if true %}" * 5000 + "{% endif %}" * 5000,
    "attributes of Python": "{{ messages.__class__.__mro__[1].__subclasses__() }}", "a list": '["x"]',
}  # fmt: skip
_EVIL = """
open({place!r}, "w").write("x")
from transformers import Qwen3Config, Qwen3ForCausalLM
class EvilConfig(Qwen3Config):
    model_type = "evilmodel"
class Evil(Qwen3ForCausalLM):
    pass
"""


class Bomb:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.place}",)


class Folders:
    """A case's copies of a sound model and a sound adapter."""

    def __init__(self, world: World) -> None:
        self.world, self.here = world, world.fresh()
        self.model, self.adapter = self.here / "model", self.here / "adapter"
        shutil.copytree(world.model, self.model)
        self.adapter.mkdir()
        for path in (world.trained / "run").iterdir():
            if path.is_file() and path.name not in ("run.json", "config.yaml", "MANIFEST.json"):
                shutil.copy(path, self.adapter)
        self.ran_marker = self.here / "code-ran"

    def train(self) -> Ran:
        once = ("max_steps=1", "save_strategy=no", "eval_strategy=no", "load_best_model_at_end=false")
        return self._run(self.world.train_words(*once, f"model_name_or_path={self.model}", "prepared_dir=p"))

    def merge(self, *words: str | Path) -> Ran:
        return self._run(["merge", self.adapter, "-o", "out", *words])

    def chat(self, target: Path) -> Ran:
        return self._run(["chat", target, "--prompt", "hi", "--max-new-tokens", "2"])

    def _run(self, words: list[str | Path]) -> Ran:
        ran = no_crash(self.world.run(words, self.here, timeout=_TIMEOUT_S))
        if self.ran_marker.exists():
            raise Failure("code ran", ran.said)
        return ran


Act = Callable[[Folders], str]


def _json_of_a_model(name: str, content: bytes) -> Act:
    def act(f: Folders) -> str:
        (f.model / name).write_bytes(content)
        return refused(f.train(), name)

    return act


def _json_of_an_adapter(name: str, content: bytes) -> Act:
    def act(f: Folders) -> str:
        (f.adapter / name).write_bytes(content)
        refused(f.chat(f.adapter), name)
        return refused(f.merge(), name)

    return act


def _weights_of_a_model(content: bytes) -> Act:
    def act(f: Folders) -> str:
        (f.model / "model.safetensors").write_bytes(content)
        refused(f.merge("--base", f.model), "model.safetensors")
        return refused(f.train(), "model.safetensors")

    return act


def _weights_of_an_adapter(content: bytes) -> Act:
    def act(f: Folders) -> str:
        (f.adapter / "adapter_model.safetensors").write_bytes(content)
        refused(f.chat(f.adapter), "adapter_model.safetensors")
        return refused(f.merge(), "adapter_model.safetensors")

    return act


def _edit(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _adapter_field(fields: dict[str, Any], *, harmless: bool) -> Act:
    def act(f: Folders) -> str:
        _edit(f.adapter / "adapter_config.json", fields)
        ends = [f.chat(f.adapter), f.merge()]
        if not harmless:
            return [refused(ran, "adapter") for ran in ends].pop()
        for ran in ends:
            if ran.status:
                refused(ran)
        return "refused" if ends[0].status else "ignored"

    return act


def _model_field(fields: dict[str, Any]) -> Act:
    def act(f: Folders) -> str:
        _edit(f.model / "config.json", fields)
        return refused(f.train())

    return act


def _index(text: str) -> Act:
    def act(f: Folders) -> str:
        shutil.copy(f.model / "model.safetensors", f.here / "outside.safetensors")
        (f.model / "model.safetensors.index.json").write_text(text)
        before = (f.here / "outside.safetensors").read_bytes()
        refused(f.merge("--base", f.model))
        said = refused(f.train())
        if (f.here / "outside.safetensors").read_bytes() != before:
            raise Failure("written outside")
        return said

    return act


def _template(text: str) -> Act:
    def act(f: Folders) -> str:
        _edit(
            f.model / "tokenizer_config.json",
            {"chat_template": text if not text.startswith('["') else json.loads(text)},
        )
        ran = f._run(
            ["prep", f.world.alpaca, f"model_name_or_path={f.model}", "template=jinja", "cutoff_len=64", "--out", "o"]
        )
        return refused(ran)

    return act


def _code(known: bool, command: str) -> Act:
    def act(f: Folders) -> str:
        fields = {"auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"}}
        _edit(f.model / "config.json", {**fields, "model_type": "qwen3" if known else "evilmodel"})
        (f.model / "evil.py").write_text(_EVIL.format(place=str(f.ran_marker)))
        ran = f.train() if command == "train" else f.chat(f.model) if command == "chat" else f.merge("--base", f.model)
        if known and ran.status == 0:
            return "its code not run"
        return refused(ran)

    return act


def _pickle(honest: bool, of_adapter: bool) -> Act:
    def act(f: Folders) -> str:
        folder, name = (f.adapter, "adapter_model") if of_adapter else (f.model, "pytorch_model")
        weights = folder / ("adapter_model.safetensors" if of_adapter else "model.safetensors")
        torch.save(load_file(weights) if honest else {"x": Bomb(f.ran_marker)}, folder / f"{name}.bin")
        weights.unlink()
        if of_adapter:
            refused(f.chat(f.adapter), "pickle")
            return refused(f.merge(), "pickle")
        return refused(f.train(), "pickle")

    return act


def cases() -> dict[str, Act]:
    """All hostile folders, by name."""
    model_files = (
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
    )
    return {
        **{f"{n}: {w}": _json_of_a_model(n, c) for n in model_files for w, c in NOT_JSON.items()},
        **{
            f"{n}: {w}": _json_of_an_adapter(n, c)
            for n in ("adapter_config.json", "qlora_fast.json")
            for w, c in NOT_JSON.items()
        },
        **{f"model.safetensors: {w}": _weights_of_a_model(c) for w, c in WEIGHTS.items()},
        **{f"adapter_model.safetensors: {w}": _weights_of_an_adapter(c) for w, c in WEIGHTS.items()},
        **{f"adapter_config.json: {w}": _adapter_field(c, harmless=False) for w, c in ADAPTER_FIELDS.items()},
        **{f"adapter_config.json: {w}": _adapter_field(c, harmless=True) for w, c in HARMLESS_FIELDS.items()},
        **{f"config.json: {w}": _model_field(c) for w, c in MODEL_FIELDS.items()},
        **{f"index: {w}": _index(c) for w, c in INDEXES.items()},
        **{f"chat template: {w}": _template(c) for w, c in TEMPLATES.items()},
        **{
            f"code of a{' known' if k else 'n unknown'} architecture, {c}": _code(k, c)
            for k in (True, False)
            for c in ("train", "chat", "merge")
        },
        **{
            f"{'honest' if h else 'hostile'} pickle of the {'adapter' if a else 'model'}": _pickle(h, a)
            for h in (True, False)
            for a in (True, False)
        },
    }


def _cases(world: World) -> Iterator[Case]:
    yield Case("sound folders", partial(_acted, _sound, world))
    for name, act in cases().items():
        yield Case(name, partial(_acted, act, world))


def _acted(act: Act, world: World) -> str:
    return act(Folders(world))


def _sound(folders: Folders) -> str:
    for ran in (folders.train(), folders.merge(), folders.chat(folders.adapter)):
        ended_well(ran)
    return "taken"


CAMPAIGN = Campaign("hostile-models", _cases, 24)
