"""A preparation over a local Ray cluster of two workers gives the bytes of one process."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

import qlora_fast
from qlora_fast.data import prepare


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_process(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from qlora_fast import ray as qlora_ray

    monkeypatch.setattr(prepare, "PART_BYTES", 20_000)
    for number in range(5):
        rows = [{"instruction": f"q {number} {i}", "output": f"answer {i} " * (1 + i % 30)} for i in range(300)]
        (tmp_path / f"data{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"model_name_or_path": str(model_dir), "cutoff_len": 128}
    files = sorted(str(p) for p in tmp_path.glob("*.jsonl"))
    alone = qlora_fast.prepare(files, out=tmp_path / "alone", **settings)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        together = qlora_ray.prepare(tmp_path / "data*.jsonl", out=tmp_path / "together", shares=4, **settings)
    finally:
        ray.shutdown()
    assert len(together) == len(alone) == 1500
    assert len(alone.manifest["shards"]) > 10

    def hashes(folder: Path) -> dict[str, str]:
        return {p.name: sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}

    assert hashes(together.path) == hashes(alone.path)


def test_without_ray_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    from qlora_fast import ray as qlora_ray
    from qlora_fast.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        qlora_ray.prepare("data.json", out=tmp_path)
    assert caught.value.hint == "pip install qlora-fast[ray]"
