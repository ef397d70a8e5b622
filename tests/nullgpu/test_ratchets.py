"""Figures of the training step that may fall and never rise. `benches/gpu/expected.json` holds the operations; what a real
GPU launches is compared with the same numbers."""

from __future__ import annotations

import json

import pytest
from benches.gpu.items.profile import EXPECTED

from nullgpu.conftest import Program

LOGSUMEXP = 0.125
"""GiB that torch.logsumexp takes for a moment beside a chunk of logits, which the estimate leaves out."""


@pytest.mark.slow
def test_operations_of_a_micro_batch(program: Program) -> None:
    (found,) = program("measure", "step")
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    assert found.keys() == expected.keys()
    for name, most in expected.items():
        for part, count in most.items():
            assert found[name][part] <= count, f"{name}: {part} launches more than it did: {found[name]['most']}"
        assert found[name]["waits"] == 0


@pytest.mark.slow
def test_the_allocator_stays_below_the_estimate_of_memory(program: Program) -> None:
    (found,) = program("measure", "memory")
    for name, gib in found.items():
        assert gib["peak"] <= gib["estimated"] + LOGSUMEXP, name
        assert gib["estimated"] <= 1.25 * gib["peak"], f"{name}: the estimate has become too large"


def test_ten_different_rows_are_one_graph_in_attention(program: Program) -> None:
    (found,) = program("measure", "graphs")
    assert found["attention"] == {"graphs": 1, "breaks": 0, "why": []}
    assert found["layer"] == {"graphs": 1, "breaks": 0, "why": []}


def test_memory_that_ends_is_an_error_that_says_what_to_change(program: Program) -> None:
    (found,) = program("memory", gib=1)
    assert found["segments"], "the allocator's blocks can grow"
    assert found["all_expandable"]
    assert "out of memory" in found["error"]
    assert "max_tokens_per_row" in found["hint"]


def test_rows_are_captured_and_replayed_without_a_launch_or_a_wait(program: Program) -> None:
    """Of a replayed row Python launches one graph, what fills its buffers, and nothing else."""
    (found,) = program("replay")
    for numbers, run in found.items():
        assert run["used"], f"{numbers}: {run.get('reason')}"
        assert run["captured"] == run["rungs"]
        assert run["graphs"] == run["rows"]
        assert run["waits"] == 0
        assert run["kernels"] <= run["rows"], f"{numbers}: the divisor is the only fill"


@pytest.mark.slow
def test_layers_of_an_unknown_architecture_are_compiled_launched_and_captured(program: Program) -> None:
    """By inductor: one graph for ten rows that all differ, half of the launches, no wait; a replayed row is one launch more."""
    (found,) = program("compiled", "bf16", "nf4")
    for numbers, run in found.items():
        assert run["missing"] is None
        assert (run["on"], run["graphs"], run["breaks"]) == (True, 1, 0), f"{numbers}: {run['problem']}"
        assert run["compiled"]["launches"] <= 0.7 * run["eager"]["launches"], numbers
        assert run["compiled"]["waits"] == run["recomputed"]["waits"] == 0
        assert run["cuda_graphs"]["used"], run["cuda_graphs"]
        assert run["cuda_graphs"]["captured"] == run["cuda_graphs"]["rungs"]
        assert run["replayed"]["launches"] <= 1
        assert run["replayed"]["waits"] == 0
