"""torch's variable-length attention, all samples of a row in one kernel, and whether it runs on a device.

Whether it runs is asked of the device, with a forward and a backward pass over a few numbers: that it can be imported says
nothing about a GPU before Ampere, a head width without a kernel, or a torch that was built without FlashAttention.

Legend: H heads, S row length, D head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from qlora_fast.errors import ConfigError

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, int, float | None, int | None], Tensor]
HALF = (torch.bfloat16, torch.float16)
WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, slots=True)
class AttentionPath:
    """How packed rows are attended on a device.

    Attributes:
        kernel: the call that takes a whole row, or None where each sample is one ``scaled_dot_product_attention``.
        why: what decided it, for people.
    """

    kernel: Varlen | None
    why: str

    def __str__(self) -> str:
        name = "each sample by scaled_dot_product_attention" if self.kernel is None else "torch.nn.attention.varlen"
        return f"{name} ({self.why})"


_PATHS: dict[tuple[int, torch.dtype, int], AttentionPath] = {}


def path_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionPath:
    """The path on a device, tried there the first time that it is asked for.

    Args:
        dtype: of queries, keys and values. head_dim: their width.
    """
    if device.type != "cuda":
        return AttentionPath(None, "no GPU")
    if dtype not in HALF:
        return AttentionPath(None, f"the kernel takes 16 bits, not {str(dtype).removeprefix('torch.')}")
    index = torch.cuda.current_device() if device.index is None else device.index
    known = _PATHS.get((index, dtype, head_dim))
    if known is None:
        known = _PATHS[(index, dtype, head_dim)] = _tried(torch.device("cuda", index), dtype, head_dim)
    return known


def varlen_kernel() -> Varlen | None:
    """torch's varlen attention behind one signature, or None where this torch has none. It may not run on the device."""
    return _adapted()[0]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _tried(device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionPath:
    """What one try comes to. In a thread of its own: whatever is switched on around the first call, be it hooks on saved
    tensors (gradient checkpointing), modes that count or no_grad, is not switched on there."""
    kernel, backend = _adapted()
    if kernel is None:
        return AttentionPath(None, "this torch has no varlen_attn")
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_run_once, kernel, device, dtype, head_dim).result()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        return AttentionPath(
            None, f"varlen_attn does not run here: {next(iter(str(error).splitlines()), 'no reason given')}"
        )
    return AttentionPath(kernel, backend)


def _run_once(kernel: Varlen, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Forward and backward over zeros: draws no random numbers; waits for the device."""
    query = torch.zeros(1, 3, head_dim, dtype=dtype, device=device, requires_grad=True)
    borders = torch.tensor([0, 1, 3], dtype=torch.int32, device=device)
    with without_cudnn():
        kernel(query, query, query, borders, 2, None, None).sum().backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)


class without_cudnn:  # noqa: N801
    """Inside, torch does not choose cuDNN for attention.

    cuDNN builds a plan for every new shape, and every packed row is a new shape. A class and not a generator: it is entered
    in each layer of each row. Where cuDNN is off already, it does nothing.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]
        if self._before:
            torch.backends.cuda.enable_cudnn_sdp(False)

    def __exit__(self, *_: object) -> None:
        if self._before:
            torch.backends.cuda.enable_cudnn_sdp(True)


@lru_cache(maxsize=1)
def _adapted() -> tuple[Varlen | None, str]:
    """(the call, its backend): its causal flag, its GQA switch and its choice of a backend changed between versions."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, ""
    known = inspect.signature(varlen_attn).parameters
    windowed = "window_size" in known

    def call(
        q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int, scale: float | None, window: int | None
    ) -> Tensor:
        """(H, S, D) to (S, H, D). ``window``: tokens that a token sees at most, itself included."""
        if window is not None and not windowed:
            raise ConfigError(
                "this torch has no sliding window for packed rows", hint="set `packing: none` or `packing: bucketed`"
            )
        options: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
        if not windowed:
            options = {"is_causal": True}
        heads, groups = q.shape[0], k.shape[0]
        if heads != groups:
            if "enable_gqa" in known:
                options["enable_gqa"] = True
            else:
                k, v = (t.repeat_interleave(heads // groups, dim=0) for t in (k, v))
        if scale is not None and "scale" in known:
            options["scale"] = scale
        q, k, v = (t.transpose(0, 1).contiguous() for t in (q, k, v))
        out = varlen_attn(q, k, v, borders, borders, longest, longest, **options)
        if not isinstance(out, Tensor):
            raise TypeError("varlen_attn gave more than the output that was asked for")
        return out

    return call, "FlashAttention; cuDNN would plan again for every row"
