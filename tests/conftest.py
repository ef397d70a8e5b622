"""Shared fixtures. Everything is made at test time or lies in tests/data; nothing is fetched."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

# Two threads at most: the suite shares two cores with whatever else runs there.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Triton's own functions are made for its interpreter or for its compiler when it is imported: for the interpreter here,
# before another library imports it. Nothing else is interpreted: tests/model/kernels sets the variable again for itself.
os.environ["TRITON_INTERPRET"] = "1"
with suppress(ImportError):
    import triton.language  # noqa: F401
del os.environ["TRITON_INTERPRET"]

# A job in the background of a script is started deaf to Ctrl-C, and so are its children: the tests of it must be heard.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder: a random Qwen3 of a few thousand parameters, with the test tokenizer and its template."""
    import tiny

    return tiny.model_folder(tmp_path_factory.mktemp("model"))
