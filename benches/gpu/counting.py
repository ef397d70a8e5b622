"""Counts what a piece of code launches on the device, the same way on a real GPU and on the null GPU of the tests.

An *operation* is a call of torch's dispatcher that reads or writes device memory (no views, no allocations), or a launch of
a Triton kernel. It is not the number of device kernels: a matrix product that is cut along its inner width is two of those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benches.gpu.product import Launch, watched

_NO_LAUNCH = frozenset({
    "view", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice", "select", "split", "split_with_sizes",
    "_unsafe_view", "detach", "alias", "as_strided", "reshape", "unbind", "_reshape_alias", "chunk", "unsafe_split", "lift_fresh",
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "set_", "is_same_size", "is_pinned", "resize_",
    "record_stream", "_pin_memory",
})  # fmt: skip
"""Operations that only make a view or allocate."""


class Operations(TorchDispatchMode):
    """Inside, ``count`` grows by name and ``bytes`` by what each operation reads and writes at least."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().split("::")[1].split(".")[0]
        if name in _NO_LAUNCH:
            return out
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        if any(t.device.type == "cuda" for t in tensors):
            self.count[name] += 1
            # An embedding reads the rows that it gives, not its whole table.
            own = 2 * out.nbytes if name == "embedding" else sum(t.nbytes for t in tensors)
            self.bytes += own
        return out

    @property
    def total(self) -> int:
        return sum(self.count.values())


@contextmanager
def operations() -> Iterator[Operations]:
    """Count inside, launches of our Triton programs included."""
    counter = Operations()

    def launched(launch: Launch) -> None:
        counter.count["triton"] += 1
        tensors = {t.data_ptr(): t for t in launch.arguments.values() if isinstance(t, torch.Tensor)}
        counter.bytes += sum(t.nbytes for t in tensors.values())

    with watched(launched), counter:
        yield counter
