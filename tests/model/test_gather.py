"""The arithmetic of a base that is fetched per row: bytes, and the rows that hide them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_run import cli
from qlora_fast.model import gather as module
from qlora_fast.model.gather import LINKS, TOLERATED, Gather, gather
from qlora_fast.model.memory_estimate import Method
from qlora_fast.model.shapes import SHAPES


def by_events(fetches: Gather, tokens: int, link: str) -> float:
    """Seconds of a row, event by event: a fetch begins with the use of what is before it, a use waits for its fetch."""
    rate = LINKS[link] * module.REACHED
    last = fetches.layers - 1
    forward, head = (tokens * work / module.FLOPS for work in (fetches.layer_work, fetches.head_work))
    uses = [("embedding", 0.0), *((f"{i}", forward) for i in range(last + 1)), ("head", head)]
    uses += [(f"{i}", forward * fetches.backward) for i in range(last, -1, -1)]
    size = {"embedding": fetches.matrix, "head": fetches.matrix}
    now = fetches.matrix / rate
    present = {"embedding", "0"}  # the first layer stayed
    arrival: dict[str, float] = {}
    for at, (name, seconds) in enumerate(uses):
        if name in arrival:
            now = max(now, arrival.pop(name))
        following = uses[at + 1][0] if at + 1 < len(uses) else name
        if following not in present:
            arrival[following] = now + size.get(following, fetches.layer) / rate
            present.add(following)
        now += seconds
        if (name, following) != (str(last), "head") and name != following:
            present.discard(name)
    return now


@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen2.5-72b"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("link", LINKS)
def test_the_time_of_a_row_is_that_of_its_events(model: str, checkpointing: bool, link: str) -> None:
    fetches = gather(SHAPES[model], Method(bits=4, checkpointing=checkpointing), 4)
    forward, head = fetches.layer_work / module.FLOPS, fetches.head_work / module.FLOPS
    for tokens in (1, 64, 2048, 65536):
        complete = tokens * (fetches.layers * forward * (1 + fetches.backward) + head)
        assert fetches.slowdown(tokens, link) == pytest.approx(by_events(fetches, tokens, link) / complete, rel=1e-9)


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("link", LINKS)
def test_the_shortest_row_that_hides_its_fetches(bits: int | None, link: str) -> None:
    fetches = gather(SHAPES["qwen3-8b"], Method(bits=bits, checkpointing=True), 8)
    shortest = fetches.tokens_to_hide(link)
    assert fetches.slowdown(shortest, link) <= TOLERATED < fetches.slowdown(shortest - 1, link)


def test_more_gpus_receive_more_and_main_memory_gives_all() -> None:
    sizes = [gather(SHAPES["qwen3-8b"], Method(bits=4), n).bytes_per_row for n in (2, 4, 64, 1)]
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 == pytest.approx(sizes[-1], rel=1e-6)


def test_plan_shows_what_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "model_name_or_path: qwen2.5-72b\nquantization_bit: 4\ndataset: x.json\ncutoff_len: 1024\nworld_size: 4\n"
    )
    shown = cli("plan", "x.yaml", "--rows", "1000", cwd=tmp_path)
    assert "GB with the base shared by 4 GPUs" in shown.out
    assert "rows are too short for 100 GbE: max_tokens_per_row=1673 and more" in shown.out
    told = cli("plan", "x.yaml", "--rows", "1000", "--json", cwd=tmp_path).json["fetched"]
    assert told["devices"] == 4
    assert told["tokens_to_hide"]["100 GbE"] == 1673
    assert told["slowdown"]["NVLink 4"] < told["slowdown"]["100 GbE"]
    alone = cli("plan", "x.yaml", "--rows", "1000", "world_size=1", "--json", cwd=tmp_path).json
    assert alone["fetched"] is None
