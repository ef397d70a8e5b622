"""What `make gpu` says of a kernel: right where it is, wrong where it is not. Interpreted on CPU tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from benches.gpu.items.kernels import TINY, difference

from qlora_fast.model.kernels.registry import KERNELS, Kernel

CPU = torch.device("cpu")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_kernel_is_within_its_bounds_of_the_reference_in_fp64(kernel: Kernel) -> None:
    torch.manual_seed(0)
    worst, right = difference(kernel, kernel.inputs(TINY, torch.bfloat16, CPU))
    assert right, f"off by {worst}"
    # It is compared with more precision than it has, not with itself.
    assert worst > 0 or kernel.name == "nf4_dequantize"


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_wrong_and_an_unwritten_output_are_seen(kernel: Kernel) -> None:
    torch.manual_seed(0)
    inputs = kernel.inputs(TINY, torch.bfloat16, CPU)
    wrong = replace(kernel, run=lambda **own: tuple(out + 0.05 * out.norm() for out in kernel.run(**own)))
    assert not difference(wrong, inputs)[1]
    unwritten = replace(kernel, run=lambda **own: tuple(torch.full_like(out, torch.nan) for out in kernel.run(**own)))
    assert not difference(unwritten, inputs)[1]
