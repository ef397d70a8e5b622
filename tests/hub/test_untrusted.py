"""Hostile files of models and adapters: each ends in one error that names the file; nothing is run, nothing hangs."""

from __future__ import annotations

import ast
import json
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from paths import ROOT
from qlora_fast.errors import ArtifactError, QloraFastError, TokenizerError
from qlora_fast.hub import resolve, untrusted
from qlora_fast.runs.adapter_card import CARD, read_card

PACKAGE = ROOT / "python" / "qlora_fast"
NOT_JSON = {
    "empty": b"", "blank": b" \n", "a list": b"[]", "null": b"null", "text": b'"x"', "a number": b"1", "cut": b"{",
    "deep lists": b"[" * 100_000, "deep lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not UTF-8": b'{"a": "\xff"}', "binary": bytes(range(256)),
    "a long number": b'{"a": ' + b"9" * 100_000 + b"}", "two objects": b"{}{}",
}  # fmt: skip


def header(content: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content + body


def tensor(**about: Any) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **about}}).encode()


WEIGHTS = {
    "empty": b"", "seven bytes": b"1234567", "length of 2⁶³": header(b"{}", length=2**63),
    "length of 2⁴⁰": header(b"{}", length=2**40), "longer than the file": header(b"{}", length=1000),
    "a list": header(b"[1]"), "deep": header(b"[" * 200_000 + b"]" * 200_000), "not UTF-8": header(b'{"\xff":1}'),
    "offsets are text": header(tensor(data_offsets="x")), "a negative shape": header(tensor(shape=[-2]), b"\0" * 8),
    "a shape that overflows": header(tensor(shape=[2**33, 2**33]), b"\0" * 8),
    "overlapping": header(
        json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [s, s + 8]} for n, s in (("a", 0), ("b", 4))}).encode(),
        b"\0" * 12,
    ),
    "behind the end": header(tensor(data_offsets=[8, 16]), b"\0" * 8), "an unknown type": header(tensor(dtype="F99"), b"\0" * 8),
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3", "vocab_size": 4}')
    save_file({"w": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "x",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    names = [f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{m}.weight" for i in (0, 1) for m in "AB"]
    save_file({name: np.zeros((2, 2), np.float32) for name in names}, folder / "adapter_model.safetensors")
    (folder / CARD).write_text(
        '{"base_model": "b", "template": "qwen3", "tokenizer_sha256": "0", "default_system": null, "bos_token": null, '
        '"eos_token": "e"}'
    )
    return folder


def refused(act: Callable[[], object], file: Path, kind: type[QloraFastError] = ArtifactError) -> str:
    started = time.perf_counter()
    with pytest.raises(kind) as caught:
        act()
    assert time.perf_counter() - started < 5
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    assert caught.value.hint
    return message


def test_sound_files_pass(base: Path, adapter: Path) -> None:
    assert resolve.model_path(str(base)) == str(base)
    assert untrusted.check_adapter(adapter)["r"] == 2
    assert read_card(adapter)["base_model"] == "b"


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", untrusted.INDEX])
def test_json_of_a_model(name: str, content: bytes, base: Path) -> None:
    (base / name).write_bytes(content)
    refused(lambda: resolve.model_path(str(base)), base / name)


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_json_of_an_adapter(content: bytes, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_bytes(content)
    refused(lambda: untrusted.check_adapter(adapter), adapter / "adapter_config.json")
    (adapter / CARD).write_bytes(content)
    refused(lambda: read_card(adapter), adapter / CARD)


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_tokenizer_config_where_only_a_tokenizer_is_needed(content: bytes, base: Path) -> None:
    (base / "tokenizer_config.json").write_bytes(content)
    refused(lambda: resolve.read_tokenizer_config(base), base / "tokenizer_config.json", TokenizerError)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"vocab_size": "many"}),
        ("config.json", {"num_hidden_layers": 10**9}),
        ("config.json", {"hidden_size": -1}),
        ("config.json", {"architectures": "Qwen3ForCausalLM"}),
        ("config.json", {"quantization_config": "bnb"}),
        ("generation_config.json", {"eos_token_id": "x"}),
        ("tokenizer_config.json", {"chat_template": 5}),
        ("tokenizer_config.json", {"eos_token": ["x"]}),
    ],
)
def test_wrong_types_of_a_model_are_named(name: str, fields: dict[str, Any], base: Path) -> None:
    (base / name).write_text(json.dumps({"model_type": "qwen3", **fields}))
    assert next(iter(fields)) in refused(lambda: resolve.model_path(str(base)), base / name)


@pytest.mark.parametrize(
    "fields",
    [
        {"r": 0}, {"r": -1}, {"r": 10**9}, {"r": "x"}, {"r": 1.5}, {"lora_alpha": float("nan")}, {"lora_alpha": 0},
        {"peft_type": None}, {"peft_type": 5}, {"target_modules": 5}, {"modules_to_save": "x"},
        {"rank_pattern": {"(([a-z]+)+)+!": 4}}, {"alpha_pattern": {"(a|a)*b": 4}}, {"rank_pattern": {"q_proj": 0}},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_fields_of_an_adapter_are_named(fields: dict[str, Any], adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    assert next(iter(fields)) in refused(lambda: untrusted.check_adapter(adapter), file)


@pytest.mark.parametrize("content", WEIGHTS.values(), ids=WEIGHTS)
def test_damaged_weights(content: bytes, base: Path, adapter: Path) -> None:
    (base / "model.safetensors").write_bytes(content)
    refused(lambda: resolve.model_path(str(base)), base / "model.safetensors")
    (adapter / "adapter_model.safetensors").write_bytes(content)
    refused(lambda: untrusted.check_adapter(adapter), adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "a\\b", ""])
def test_an_index_names_only_files_beside_it(name: str, base: Path) -> None:
    save_file({"w": np.zeros(2, np.float32)}, base.parent / "outside.safetensors")
    (base / untrusted.INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    refused(lambda: resolve.model_path(str(base)), base / untrusted.INDEX)


@pytest.mark.parametrize("found", [{}, [], 5, None, {"a": 5}], ids=str)
def test_an_index_of_another_shape(found: Any, base: Path) -> None:
    (base / untrusted.INDEX).write_text(json.dumps({"weight_map": found}))
    assert "weight_map" in refused(lambda: resolve.model_path(str(base)), base / untrusted.INDEX)


def test_an_index_with_a_missing_file(base: Path) -> None:
    (base / untrusted.INDEX).write_text('{"weight_map": {"w": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(ArtifactError, match=r"has no model-00001-of-00002\.safetensors"):
        resolve.model_path(str(base))


def test_pickles_are_refused_with_the_conversion(base: Path, adapter: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = refused(lambda: resolve.model_path(str(base)), base / "pytorch_model.bin")
    assert "is a pickle" in message
    (adapter / "adapter_model.safetensors").rename(adapter / "gone")
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert "is a pickle" in refused(lambda: untrusted.check_adapter(adapter), adapter / "adapter_model.bin")


def test_the_conversion_of_an_adapter_works(adapter: Path) -> None:
    import shlex
    import subprocess
    import sys

    import torch

    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"w": torch.ones(2)}, adapter / "adapter_model.bin")
    with pytest.raises(ArtifactError) as caught:
        untrusted.check_adapter(adapter)
    words = shlex.split((caught.value.hint or "").partition("convert it once: ")[2])
    subprocess.run([sys.executable, *words[1:]], check=True)
    assert untrusted.check_adapter(adapter)


def test_what_is_not_a_regular_file_is_not_waited_for(base: Path) -> None:
    (base / "config.json").unlink()
    os.mkfifo(base / "config.json")
    with pytest.raises(ArtifactError):
        untrusted.check_model(base)


def test_modules_are_named_by_the_weights(adapter: Path) -> None:
    assert untrusted.adapted_modules(adapter) == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]


def test_a_pattern_that_never_ends_is_never_matched(model_dir: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from qlora_fast.model.adapter_files import load_adapter

    def fresh() -> Any:
        return AutoModelForCausalLM.from_pretrained(model_dir)

    get_peft_model(fresh(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    plain, endless = json.loads(file.read_text()), "(([a-z._0-9]+)+)+!"
    for number, change in enumerate(
        (
            {"target_modules": endless},
            {"exclude_modules": endless},
            {"exclude_modules": [endless]},
            {"layers_to_transform": [0, 1], "layers_pattern": endless},
            {"layers_to_transform": [0, 1], "layers_pattern": [endless]},
        )
    ):
        file.write_text(json.dumps({**plain, **change}))
        model = load_adapter(fresh(), tmp_path / "a", "one")
        if number == 0:
            load_adapter(model, tmp_path / "a", "two")
        adapted = {n.split(".lora_A.")[0].rsplit(".", 1)[-1] for n, _ in model.named_parameters() if ".lora_A." in n}
        assert adapted == {"q_proj"}, change
    for name in ("modules_to_save", "rank_pattern", "alpha_pattern"):
        file.write_text(json.dumps({**plain, name: [endless] if name == "modules_to_save" else {endless: 4}}))
        with pytest.raises(ArtifactError, match=f"malformed.*{name}"):
            load_adapter(fresh(), tmp_path / "a")
    file.write_text(json.dumps(plain))
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "layers_to_transform": [10**9], "target_modules": ["x"]})
    )
    with pytest.raises(ArtifactError, match="does not fit the base model"):
        load_adapter(fresh(), tmp_path / "a")


def test_a_model_with_code_of_its_own_is_not_asked_about(model_dir: Path, tmp_path: Path) -> None:
    import shutil

    import torch

    from qlora_fast.model.load import load_base

    folder = tmp_path / "m"
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ArtifactError) as caught:
        load_base(str(folder), dtype=torch.float32, device=torch.device("cpu"))
    assert "code of its own, which is never run" in (caught.value.hint or "")
    assert not (tmp_path / "ran").exists()


def calls(name: str) -> list[tuple[Path, ast.Call]]:
    return [
        (path, node)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name
    ]


def test_every_library_is_told_to_run_no_code() -> None:
    found = [(path, node) for path, node in calls("from_pretrained") if "Auto" in ast.unparse(node.func)]
    for path, node in found:
        words = ast.unparse(node)
        assert "trust_remote_code=False" in words or "**SAFE" in words, f"{path}:{node.lineno}: {words}"
    models = {path.relative_to(PACKAGE).as_posix() for path, node in found if "AutoModel" in ast.unparse(node.func)}
    # One place loads models, and refuses those whose files lack weights; a GGUF file is converted in the other.
    assert models == {"model/load.py", "hub/resolve.py"}


def test_files_of_models_are_read_in_one_place() -> None:
    """No `json.loads` near the name of such a file, outside of the one reader."""
    names = r"config\.json|MODEL_CONFIG|ADAPTER_CONFIG|TOKENIZER_CONFIG|INDEX|CARD\b"
    for path, node in [*calls("loads"), *calls("load")]:
        if path.name != "untrusted.py" and ast.unparse(node.func).startswith("json."):
            assert not re.search(names, ast.unparse(node)), f"{path}:{node.lineno}"
