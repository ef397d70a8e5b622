"""Fixtures of the data room's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def settings(tmp_path: Path, model_dir: Path) -> dict[str, Any]:
    """Of a preparation in a folder of its own."""
    return {
        "model_name_or_path": str(model_dir),
        "prepared_dir": str(tmp_path / "prepared"),
        "dataset_dir": str(tmp_path),
    }
