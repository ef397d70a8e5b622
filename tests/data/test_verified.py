"""Prepared data is verified when it is opened: no damage goes unnoticed, and damaged shards are made again."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_run import cli
from oracle import TOKENIZER
from prepared import write_prepared
from qlora_fast import _core
from qlora_fast.data.dataset import open_prepared
from qlora_fast.errors import ArtifactError, QloraFastError
from qlora_fast.hub.manifest import Verify
from tiny_folder import trained

Content = tuple[list[tuple[bytes, bytes, str]], bytes, bytes, str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "qlora-fast"


@pytest.fixture
def options(tmp_path: Path, cache: Path) -> Any:
    rows = [{"instruction": f"q {i}", "output": "" if i == 9 else f"answer {i} " * (1 + i % 9)} for i in range(300)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    return {
        "data": [str(tmp_path / "data.json")],
        "tokenizer": str(TOKENIZER),
        "template": "qwen3",
        "cutoff_len": 64,
        "part_bytes": 3000,
        "cache": str(cache),
        "out": str(tmp_path / "out"),
    }


def content(folder: Path, verify: Verify = "full") -> Content:
    dataset = open_prepared(folder, verify=verify)
    samples = [
        (dataset.ids(i).tobytes(), dataset.spans(i).tobytes(), str(dataset.origin(i))) for i in range(len(dataset))
    ]
    return samples, dataset.lengths.tobytes(), dataset.supervised.tobytes(), dataset.fingerprint


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flips(folder: Path, count: int) -> Iterator[Path]:
    """One random bit after the other, in any file; each is put back."""
    chance = random.Random(7)
    paths = sorted(folder.iterdir())
    for _ in range(count):
        path = chance.choices(paths, [p.stat().st_size for p in paths])[0]
        before = path.read_bytes()
        damaged = bytearray(before)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        yield path
        path.write_bytes(before)


def test_no_flipped_bit_is_silent(options: Any, tmp_path: Path) -> None:
    _core.prepare(options)
    folder = tmp_path / "out"
    assert {p.suffix for p in folder.iterdir()} == {".json", ".jsonl", ".safetensors"}
    expected = content(folder)
    outcomes: Counter[tuple[str, str]] = Counter()
    unnamed = []
    for path in flips(folder, 400):
        try:
            outcome = "harmless" if content(folder) == expected else "silent"
        except QloraFastError as error:
            outcome = "detected"
            if str(path) not in str(error) and "manifest.json" not in str(error):
                unnamed.append(str(error))
        outcomes[path.suffix, outcome] += 1
    assert not unnamed
    assert not [outcome for _, outcome in outcomes if outcome == "silent"], outcomes
    # rejected.jsonl is not read by training, and meant to be edited.
    assert {suffix for suffix, outcome in outcomes if outcome == "harmless"} <= {".jsonl", ".safetensors"}
    assert outcomes[".safetensors", "detected"] > outcomes[".safetensors", "harmless"], outcomes


def test_a_damaged_shard_is_made_again_from_its_source(options: Any, tmp_path: Path) -> None:
    _core.prepare(options)
    folder = tmp_path / "out"
    expected = files(folder)
    shards = sorted(name for name in expected if name.endswith(".safetensors"))
    assert len(shards) > 5
    flipped, cut, missing = shards[1], shards[3], shards[4]
    (folder / flipped).write_bytes(expected[flipped][:2000] + b"\xff" + expected[flipped][2001:])
    (folder / cut).write_bytes(expected[cut][:-8])
    (folder / missing).unlink()
    with pytest.raises(ArtifactError, match=flipped) as caught:
        open_prepared(folder)
    assert "prep` again" in str(caught.value.hint)
    report = _core.prepare(options)
    assert (report["reused"], report["remade"]) == (True, [flipped, cut, missing])
    assert files(folder) == expected
    assert "remade" not in _core.prepare(options)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


HURT: dict[str, Callable[[Path], object]] = {
    "flipped": lambda p: p.write_bytes(p.read_bytes()[:-9] + b"\xff" + p.read_bytes()[-8:]),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-3]),
    "empty": lambda p: p.write_bytes(b""),
    "missing": Path.unlink,
    "a pipe": lambda p: (p.unlink(), os.mkfifo(p)),
}


@pytest.mark.parametrize("how", HURT)
def test_every_file_that_is_read_is_made_again_and_nothing_is_deleted(how: str, options: Any, tmp_path: Path) -> None:
    _core.prepare(options)
    folder = tmp_path / "out"
    expected = files(folder)
    for name in ("manifest.json", "checksums.json", "shard-00000-00001.safetensors"):
        HURT[how](folder / name)
        report = _core.prepare(options)
        if (name, how) == ("checksums.json", "missing"):
            assert report["reused"], "a folder of an older version"
            continue
        remade = name if name.startswith("shard") else "manifest.json"
        assert report["remade"] == [remade]
        aside = sorted(tmp_path.glob("out.damaged*"))
        if remade == "manifest.json":
            assert Path(report["set_aside"]) in aside
        else:
            assert "set_aside" not in report
        if remade == "manifest.json":
            assert files(folder) == expected
            assert len([path for path in aside if path.is_dir()]) == 1
            for path in aside:
                assert {p.name for p in path.iterdir()} >= expected.keys() - {name}
                shutil.rmtree(path)
        else:
            assert not aside
        assert (folder / name).read_bytes() == expected[name]


def test_a_damaged_folder_with_anything_else_in_it_is_refused(options: Any, tmp_path: Path) -> None:
    _core.prepare(options)
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    before = sorted(files(tmp_path / "out"))
    with pytest.raises(ArtifactError, match="not a prepared dataset"):
        _core.prepare(options)
    assert sorted(files(tmp_path / "out")) == before
    (tmp_path / "out" / "thesis.txt").unlink()
    with pytest.raises(ArtifactError, match="manifest is missing or damaged"):
        _core.prepare_share(options, 1, 2)
    with pytest.raises(ArtifactError, match="manifest is missing or damaged"):
        _core.merge(options)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".") or "damaged" in p.name]


def test_train_makes_damaged_data_again_and_says_so(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"max_steps": 1, "val_size": 0, "eval_strategy": "no"}
    trained(tmp_path, model_dir, output_dir=tmp_path / "first", **settings)
    (folder,) = (tmp_path / "prepared").iterdir()
    expected = files(folder)
    shard = folder / "shard-00000-00000.safetensors"
    for number, name in enumerate((shard.name, "manifest.json")):
        HURT["flipped"](folder / name)
        caplog.clear()
        run = trained(tmp_path, model_dir, output_dir=tmp_path / f"again-{number}", **settings)
        assert f"{name}` was damaged and was made again" in caplog.text
        assert (f"renamed to `{folder}.damaged`" in caplog.text) == (name == "manifest.json")
        assert files(folder) == expected
        weights = "adapter_model.safetensors"
        assert (run / weights).read_bytes() == (tmp_path / "first" / weights).read_bytes()


def test_a_shard_whose_source_has_changed_is_named_and_nothing_is_touched(options: Any, tmp_path: Path) -> None:
    _core.prepare(options)
    folder = tmp_path / "out"
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    damaged = files(folder)
    with pytest.raises(ArtifactError, match=shard.name):
        _core.merge(options)
    rows = json.loads((tmp_path / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps(rows[1:]))
    with pytest.raises(ArtifactError, match="holds other prepared data"):
        _core.prepare(options)
    assert files(folder) == damaged


def test_what_was_verified_is_read_again_only_when_it_changes(options: Any, tmp_path: Path, cache: Path) -> None:
    _core.prepare(options)
    folder = tmp_path / "out"
    shards = sorted(folder.glob("*.safetensors"))
    size = sum(shard.stat().st_size for shard in shards)

    def read(verify: str = "full") -> int:
        return _core.open_prepared(folder, verify=verify, cache=cache).bytes_verified

    assert read() == 0, "this process has written it"
    # A copy over the file: other times, the same bytes.
    for shard in shards:
        shard.write_bytes(shard.read_bytes())
    time.sleep(0.1)
    assert (read(), read()) == (size, 0)
    assert not list(cache.rglob("verified-*/*")), "a file that has just changed is not remembered on disk"
    os.utime(shards[0])
    assert read() == shards[0].stat().st_size

    code = (
        "import sys; from qlora_fast import _core;"
        "print(_core.open_prepared(sys.argv[1], cache=sys.argv[2]).bytes_verified)"
    )

    def in_another_process() -> int:
        ran = subprocess.run([sys.executable, "-c", code, folder, cache], capture_output=True, text=True, check=True)
        return int(ran.stdout)

    time.sleep(2.1)
    assert (in_another_process(), in_another_process()) == (size, 0)
    (stored,) = cache.rglob("verified-*/*.json")
    stored.write_bytes(stored.read_bytes()[:-20])
    assert (in_another_process(), in_another_process()) == (size, 0)


@pytest.mark.parametrize(
    ("column", "value", "seen_by", "problem"),
    [
        ("input_ids", 2**31, {"full", "quick"}, "a token id is negative"),
        ("record_file", 7, {"full", "quick"}, "a file that the manifest does not list"),
        ("record_index", 2**63, {"full", "quick"}, "the row or the line of a sample is negative"),
        ("sample_offsets", 1, {"full", "quick", "off"}, "its offsets do not fit"),
        ("span_offsets", 10**9, {"full", "quick", "off"}, "its offsets do not fit"),
        ("spans", 0, {"full", "quick", "off"}, "a supervised span of sample 0"),
        ("spans", 50, {"full", "quick", "off"}, "a supervised span of sample 0"),
    ],
)
def test_values_outside_their_range_are_found_also_without_hashes(
    column: str, value: int, seen_by: set[Verify], problem: str, tmp_path: Path
) -> None:
    folder = write_prepared(tmp_path / "p", [([5, 6, 7, 8], [(2, 4)]), ([1, 2], [(1, 2)])])
    shard = folder / "shard-00000.safetensors"
    damaged = bytearray(shard.read_bytes())
    header = json.loads(damaged[8 : 8 + int.from_bytes(damaged[:8], "little")])
    at = 8 + int.from_bytes(damaged[:8], "little") + header[column]["data_offsets"][0]
    width = {"I32": 4, "I64": 8}[header[column]["dtype"]]
    damaged[at : at + width] = value.to_bytes(width, "little")
    shard.write_bytes(damaged)
    levels: tuple[Verify, ...] = ("full", "quick", "off")
    for verify in levels:
        if verify in seen_by:
            with pytest.raises(ArtifactError, match="hash" if verify == "full" else problem):
                open_prepared(folder, verify=verify)
        else:
            open_prepared(folder, verify=verify)


def test_ids_without_an_embedding_are_found_whatever_is_verified(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "p", [([5, 6, 7, 8], [(2, 4)]), ([1, 99], [(1, 2)])])
    levels: tuple[Verify, ...] = ("full", "quick", "off")
    for verify in levels:
        dataset = open_prepared(folder, verify=verify)
        dataset.check_ids(100)
        with pytest.raises(ArtifactError, match="token id 99 in the sample of") as caught:
            dataset.check_ids(99)
        assert "shard-00000.safetensors" in str(caught.value)
        assert str(dataset.origin(1)) in str(caught.value)
        assert "prepare the data again" in str(caught.value.hint)


def test_doctor_names_what_is_damaged(options: Any, tmp_path: Path) -> None:
    _core.prepare(options)
    folder = tmp_path / "out"
    assert cli("doctor", str(folder)).status == 0
    shard = sorted(folder.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    (folder / "rejected.jsonl").write_text("edited")
    ran = cli("doctor", str(folder), "--json")
    assert ran.status == 1
    found = {f["name"]: f for f in ran.json["prepared data"]}
    assert not ran.json["ok"]
    assert found[shard.name]["state"] == "broken"
    assert found["rejected.jsonl"]["state"] == "note"
    assert cli("doctor", str(tmp_path / "nowhere")).status == 1
    assert cli("doctor", str(tmp_path)).status == 1
