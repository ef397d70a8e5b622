"""The copies of a streamed base and the computation are ordered: each use behind its copy, each copy behind the last use."""

from __future__ import annotations

import pytest

from nullgpu.conftest import Program


def test_every_use_waits_for_its_copy_and_every_copy_for_the_last_use(program: Program) -> None:
    (found,) = program("streams")
    assert found["error"] == ""
    assert found["units"] == 2
    assert found["fetched"] > 30
    # Without gradients there is little beside the two layers.
    assert found["gathered"] <= found["peak"] <= 1.15 * found["gathered"]


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["ready", "release"])
def test_a_wait_that_is_left_out_is_found(program: Program, left_out: str) -> None:
    (found,) = program("streams", left_out)
    assert {"ready": "before it is there", "release": "which is in use"}[left_out] in found["error"]
