"""docs/format.md is true: a reader made from the page's table alone reads what the core writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from oracle import TOKENIZER
from paths import ROOT
from qlora_fast import _core
from qlora_fast.data.dataset import PreparedDataset, open_prepared

PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
NUMPY = {"I32": "<i4", "I64": "<i8"}


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page, code marks removed."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def read_shard(path: Path, samples: int, tokens: int) -> dict[str, np.ndarray[Any, Any]]:
    """A shard by the page's table: the columns one after the other, in the page's order, without the header's help."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert 8 + length == 1024
    columns = {}
    at = 1024
    for name, dtype, shape, present, _ in table("Columns of a shard"):
        if name not in header:
            assert present != "always", name
            continue
        spans = header["spans"]["shape"][0]
        dimensions = [int(eval(d, {"N": samples, "T": tokens, "S": spans})) for d in shape.strip("[]").split(",")]
        assert header[name]["dtype"] == dtype
        assert header[name]["shape"] == dimensions
        column = np.frombuffer(content, NUMPY[dtype], int(np.prod(dimensions)), at)
        assert at % column.itemsize == 0
        columns[name] = column.reshape(dimensions)
        at += column.nbytes
    assert at == len(content)
    assert set(header) == {"__metadata__", *columns}
    return columns


@pytest.fixture(scope="module", params=["off", "exact"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("format")
    rows = [{"instruction": f"q {i}", "output": "" if i == 5 else f"a {i} " * (i % 7 + 1)} for i in range(203)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows[:100])))
    (folder / "b.json").write_text(json.dumps(rows[100:]))
    options: Any = {
        "data": [str(folder / "a.jsonl"), str(folder / "b.json")],
        "tokenizer": str(TOKENIZER),
        "template": "qwen3",
        "cutoff_len": 64,
        "part_bytes": 2000,
        "deduplicate": request.param,
        "out": str(folder / "out"),
    }
    _core.prepare(options)
    return open_prepared(folder / "out")


def test_a_reader_made_from_the_page_reads_what_is_written(dataset: PreparedDataset) -> None:
    manifest = json.loads((dataset.path / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["shards"]) > 5
    at = 0
    for entry in manifest["shards"]:
        path = dataset.path / entry["file"]
        content = path.read_bytes()
        assert (len(content), blake3(content[1024:]).hexdigest()) == (entry["bytes"], entry["blake3"])
        columns = read_shard(path, entry["rows"], entry["tokens"])
        for i in range(entry["rows"]):
            start, end = columns["sample_offsets"][i : i + 2]
            first, last = columns["span_offsets"][i : i + 2]
            assert columns["input_ids"][start:end].tolist() == dataset.ids(at).tolist()
            assert columns["spans"][first:last].tolist() == dataset.spans(at).tolist()
            source = manifest["sources"][columns["record_file"][i]]["path"]
            place = (source, columns["record_index"][i], columns["record_line"][i])
            origin = dataset.origin(at)
            assert place == (origin.file, origin.row, origin.line)
            at += 1
    assert at == len(dataset)
    assert manifest["rows_kept"] <= at


def test_the_page_names_every_key_of_the_manifest(dataset: PreparedDataset) -> None:
    written = json.loads((dataset.path / "manifest.json").read_text(encoding="utf-8"))
    assert [row[0] for row in table("manifest.json")] == list(written)
    for heading, key in (("One entry of sources", "sources"), ("One entry of shards", "shards")):
        assert [row[0] for row in table(heading)] == list(written[key][0])
    assert f"format version {_core.FORMAT_VERSION}" in PAGE


def test_the_page_names_every_file(dataset: PreparedDataset) -> None:
    names = [row[0] for row in table("Files")]
    assert len(names) == 5
    for path in dataset.path.iterdir():
        assert any(re.fullmatch(name.replace("FFFFF-PPPPP", r"\d{5}-\d{5}"), path.name) for name in names), path.name


def test_checksums_are_those_of_the_files(dataset: PreparedDataset) -> None:
    stored = json.loads((dataset.path / "checksums.json").read_text(encoding="utf-8"))["files"]
    assert set(stored) == {"manifest.json", "rejected.jsonl"}
    for name, checksum in stored.items():
        content = (dataset.path / name).read_bytes()
        assert checksum == {"bytes": len(content), "blake3": blake3(content).hexdigest()}
