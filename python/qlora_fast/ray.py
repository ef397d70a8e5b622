"""Prepare data over a Ray cluster: a Ray Data job whose tasks are shares of one preparation.

>>> from qlora_fast import ray as qlora_ray  # pip install qlora-fast[ray]  # doctest: +SKIP
>>> dataset = qlora_ray.prepare("data/*.jsonl", out="/shared/prepared/big", model_name_or_path="models/Qwen3-8B")  # doctest: +SKIP

Every node must see the same files and the same ``out`` (a shared file system). A share is the same function that
``qlora-fast prep --shard`` calls, so the result is that of one process, bit for bit; shares that a lost node had done
are found again, and what it was doing is done again. Nothing else in this package imports Ray.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from qlora_fast import _core
from qlora_fast.config import of
from qlora_fast.data.dataset import PreparedDataset, open_prepared
from qlora_fast.data.prepare import core_options
from qlora_fast.errors import ConfigError, DataError

SHARES_PER_CPU = 4
"""More shares than processors: the last ones even out what the first ones took."""


def prepare(
    data: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    shares: int | None = None,
    **settings: Any,
) -> PreparedDataset:
    """Prepare files over the cluster that ``ray.init`` found (or a local one), and open the result.

    Args:
        data: files; a name may be a pattern such as ``data/*.jsonl``.
        out: the folder to write, on a file system that every node sees.
        shares: tasks; default four for every processor of the cluster. The bytes do not depend on it.
        settings: config keys, as for :func:`qlora_fast.prepare`.

    Raises:
        ConfigError, DataError, TokenizerError, ArtifactError: see :func:`qlora_fast.data.prepare.prepare_config`.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("Ray is not installed", hint="pip install qlora-fast[ray]") from None

    # One thread per task: Ray counts processors, so a share must not take more.
    config = of(dataset=_files(data), **{"threads": 1, **settings})
    options = core_options(config, out=Path(out).absolute())
    if not ray.is_initialized():
        ray.init()
    count = shares or max(1, int(ray.cluster_resources().get("CPU", 1))) * SHARES_PER_CPU
    tasks = [{"options": json.dumps(options), "number": number, "count": count} for number in range(1, count + 1)]
    ray.data.from_items(tasks, override_num_blocks=count).map(_share, num_cpus=1).materialize()
    return open_prepared(_core.merge(options)["path"])


def _share(task: dict[str, Any]) -> dict[str, Any]:
    report = _core.prepare_share(json.loads(task["options"]), int(task["number"]), int(task["count"]))
    return {"number": task["number"], "parts": report["parts"]}


def _files(data: str | Path | Sequence[str | Path]) -> list[str]:
    names = [data] if isinstance(data, str | Path) else data
    found = [f for name in names for f in (sorted(glob(str(name))) or [str(name)])]
    files = [str(Path(f).absolute()) for f in found]
    if not files:
        raise DataError("there is no data to prepare")
    return files
