"""Shared fixtures. Everything is made at test time or lies in tests/data; nothing is fetched."""

from __future__ import annotations

import os

# Two threads at most: the suite shares two cores with whatever else runs there.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
