"""A base in main memory: the same run, the same answers, and what the plan says of its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny
from cli_run import cli
from parameter_run import maker
from qlora_fast.chat import placing, session
from qlora_fast.chat.placing import chosen
from qlora_fast.config import Config
from qlora_fast.errors import ConfigError, TrainingError
from qlora_fast.model.load import Quantization, eval_as_trained, load_base
from qlora_fast.model.streamed import hooks
from qlora_fast.model.streamed.pinned import Pinned, piece_sizes
from tiny_run import CPU

PARTS = ("adapter_model.safetensors", "checkpoint-8/optimizer.safetensors", "eval_samples.jsonl")


@pytest.mark.parametrize("bits", [None, 4])
def test_an_offloaded_run_makes_the_same_bits(model_dir: Path, tmp_path: Path, bits: int | None) -> None:
    made: list[Any] = []
    for name, offload in (("plain", False), ("offloaded", True)):
        (tmp_path / name).mkdir()
        settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "epoch"}
        settings |= {"offload_base": str(offload).lower()} | ({"quantization_bit": bits} if bits else {})
        made.append(maker(model_dir, tmp_path / name)(**settings).folder)
    for part in PARTS:
        assert (made[0] / part).read_bytes() == (made[1] / part).read_bytes(), part


def test_what_is_kept_is_in_main_memory() -> None:
    source = Pinned()
    flats = [torch.arange(n, dtype=torch.uint8) for n in (7, 200)]
    for index, flat in enumerate(flats):
        source.keep(index, flat)
    assert (source.host_bytes, source.device_bytes) == (207, 0)
    for index in (1, 0, 1):
        filled = torch.zeros_like(flats[index])
        source.fill(index, filled)
        assert torch.equal(filled, flats[index])


@pytest.mark.parametrize("size", [256, 2**20 - 256, 2**20, 5 * 2**20 + 768, 1_244_659_712])
def test_pieces_are_what_torch_would_round_up_to(size: int) -> None:
    sizes = piece_sizes(size)
    assert sum(sizes) == size
    assert sum(1 << (piece - 1).bit_length() for piece in sizes) < size + 2**20
    assert len(sizes) <= 12


def test_a_unit_of_several_pieces_comes_back_whole() -> None:
    flat = torch.randint(0, 256, (3 * 2**20 + 256,), dtype=torch.uint8)
    source, filled = Pinned(), torch.zeros_like(flat)
    source.keep(0, flat)
    source.fill(0, filled)
    assert torch.equal(filled, flat)


def test_memory_that_is_refused_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(TrainingError, match="main memory does not hold the base model") as caught:
        Pinned().keep(0, torch.zeros(8, dtype=torch.uint8))
    assert "ulimit -l" in str(caught.value.hint)


@pytest.mark.parametrize("other", [{"shard_base": "world"}, {"use_dora": True}, {"pissa_init": True}])
def test_what_cannot_be_offloaded_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="offload_base"):
        Config(offload_base=True, **other)
    assert Config(offload_base=True, shard_base="auto").offload_base


@pytest.mark.parametrize("bits", [None, Quantization()])
def test_a_chat_from_main_memory_has_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: Quantization | None
) -> None:
    folder = str(tiny.save(tiny.qwen3(num_hidden_layers=4), tmp_path))
    base = load_base(folder, dtype=torch.float32, device=CPU, packing="none", quantization=bits)
    base.set_attn_implementation("sdpa")  # type: ignore[operator]
    monkeypatch.setattr(session, "place_of", lambda *_: "main memory")
    away = session.load_chat_model(folder, {}, torch.float32, CPU, bits)
    assert hooks.stream_of(away) is not None
    ids = torch.arange(1, 12)[None]
    with torch.no_grad():
        for one, other in ((eval_as_trained(base), away), (base, away)):
            assert torch.equal(one(input_ids=ids).logits, other(input_ids=ids).logits)
        first, second = (m(input_ids=ids[:, :5], use_cache=True).past_key_values for m in (base, away))
        for at in (5, 6):
            one, other = (
                m(input_ids=ids[:, at : at + 1], past_key_values=c).logits for m, c in ((base, first), (away, second))
            )
            # A product with one token is rounded by where the weights lie.
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "refused"),
    [({"modules_to_save": ["lm_head"]}, ""), ({"use_dora": True}, "DoRA"), ({"init_lora_weights": "pissa"}, "pissa")],
)
def test_an_adapter_with_more_than_its_matrices_chats_from_main_memory_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], refused: str
) -> None:
    base = tiny.save(tiny.llama(), tmp_path / "base")
    made: Any = get_peft_model(
        load_base(str(base), dtype=torch.float32, device=CPU, packing="none"),
        LoraConfig(r=2, target_modules=["q_proj"], **options),
    )
    made.set_adapter("default")
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    made.save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(session, "place_of", lambda *_: "main memory")
    if refused:
        with pytest.raises(ConfigError, match=refused):
            session.load_chat_model(str(base), {"one": tmp_path / "adapter"}, torch.float32, CPU)
        return
    away = session.load_chat_model(str(base), {"one": tmp_path / "adapter"}, torch.float32, CPU)
    ids = torch.arange(1, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(away(input_ids=ids).logits, made.eval()(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("needed", "free", "place"),
    [
        (80, [100], "device"),
        (90, [100], "main memory"),
        (90, [100, 100], "devices"),
        (180, [100, 100], "main memory"),
        (80, [100, 10], "device"),
    ],
)
def test_where_a_chat_puts_its_base(needed: int, free: list[int], place: str) -> None:
    assert chosen(needed, free) == place


def test_the_plan_says_what_it_costs(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "model_name_or_path: qwen3-8b\nquantization_bit: 4\noffload_base: true\ndataset: x.json\ncutoff_len: 1024\n"
    )
    shown = cli("plan", "x.yaml", "--rows", "1000", cwd=tmp_path)
    assert "with the base in main memory (offload_base)" in shown.out
    assert "a row takes at least 0.19 s over PCIe 5, 0.38 s over PCIe 4" in shown.out
    told = cli("plan", "x.yaml", "--rows", "1000", "--json", cwd=tmp_path).json["fetched"]
    assert set(told["tokens_to_hide"]) == {"PCIe 5", "PCIe 4"}
    assert told["offload"] is True


@pytest.mark.parametrize(("free", "asked", "where"), [(10**12, [1], "device"), (10**6, [1, 0, 2], "main memory")])
def test_other_gpus_are_asked_only_where_the_first_is_too_small(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, free: int, asked: list[int], where: str
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: seen.append(i) or (free, free))
    monkeypatch.setattr(placing, "base_bytes", lambda *_: 10**9)
    assert placing.place_of(str(model_dir), torch.bfloat16, torch.device("cuda", 1), None) == where
    assert seen == asked
