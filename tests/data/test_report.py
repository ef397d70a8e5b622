"""The stored report: complete, explained, drawn; and rows that can be fixed and prepared again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from cli_run import ROOT, Ran, cli
from oracle import TOKENIZER
from qlora_fast import _core
from qlora_fast.data.dataset import open_prepared
from qlora_fast.data.drop_reasons import NOTICES, REASONS, REPAIRS, explain
from qlora_fast.data.length_stats import batching_report, padding
from qlora_fast.data.plan import PlanOptions, epoch_plan

CORE = ROOT / "rust" / "core" / "src"


def test_every_name_the_core_knows_is_explained() -> None:
    reasons, repairs, notices = map(set, _core.report_names())
    assert (set(REASONS), set(REPAIRS), set(NOTICES)) == (reasons, repairs, notices)
    for explanation in REASONS.values():
        assert explanation.what
        assert explanation.fix
    assert explain("not_text:output") == REASONS["not_text"]
    assert explain("nonsense") is None


def prepare(tmp_path: Path, rows: list[Any], **more: Any) -> dict[str, Any]:
    data = tmp_path / "data.json"
    data.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    options = {"data": [str(data)], "tokenizer": str(TOKENIZER), "template": "qwen3", "cutoff_len": 64}
    report: Any = _core.prepare({**options, "out": str(tmp_path / "out"), **more})
    return report


def rows(n: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    return [{"instruction": f"say {i}", "output": "word " * int(k)} for i, k in enumerate(rng.integers(1, 150, n))]


def test_a_key_of_any_length_leaves_the_report_short(tmp_path: Path) -> None:
    made = prepare(tmp_path, [{"instruction": "a", "output": "b", "é" * 100_000: 1, "short": 2}])
    assert made["ignored_keys"] == {"é" * 100: 1, "short": 1}


OPTIONS = PlanOptions("none", 16, 4, 64, 1, 0)


def test_the_report_counts_what_counting_by_hand_counts(tmp_path: Path) -> None:
    prepare(tmp_path, rows(300))
    whole = prepare(tmp_path / "whole", rows(300), cutoff_len=100_000) if (tmp_path / "whole").mkdir() is None else {}
    dataset = open_prepared(tmp_path / "out")
    full = open_prepared(Path(whole["path"])).lengths.astype(int)
    found = batching_report(tmp_path / "out", OPTIONS)
    for loss in found["cutoffs"]:
        longer = full[full > loss["cutoff_len"]]
        assert (loss["rows"], loss["tokens"]) == (len(longer), int((longer - loss["cutoff_len"]).sum()))
    assert {512, 1024, 2048, 4096, 64, int(full.max()), found["suggested_cutoff"]} == {
        loss["cutoff_len"] for loss in found["cutoffs"]
    }
    p95 = int(np.sort(full)[int(np.ceil(0.95 * len(full))) - 1])
    assert p95 < found["suggested_cutoff"] <= p95 + 64
    assert found["suggested_cutoff"] % 64 == 0
    counted = _core.length_counts(dataset.manifest["full_lengths"])
    lengths, samples = counted.lengths, counted.samples
    assert np.repeat(lengths, samples).tolist() == np.sort(full).tolist()
    assert (counted.total_samples, counted.total_tokens) == (300, int(full.sum()))
    some = _core.length_counts("3:2 100001:2:200003")
    assert (some.total_samples, some.total_tokens) == (4, 200_009)
    assert (some.lengths, some.samples) == ([3, 100_001], [2, 2])

    for fill in padding(dataset.lengths, dataset.supervised, OPTIONS):
        assert vars_of(fill) in found["padding"]
        options = PlanOptions(fill.packing, 16, 4, 64, 1, 0)
        plan = epoch_plan(dataset.lengths, dataset.supervised, options)
        rows_ = [
            dataset.lengths[plan.sample_ids[a:b]] for a, b in zip(plan.row_offsets, plan.row_offsets[1:], strict=False)
        ]
        padded = fill.packing in ("none", "bucketed")
        computed = sum(int(r.max()) * len(r) if padded else int(r.sum()) for r in rows_)
        assert (fill.computed_tokens, fill.rows, fill.updates) == (computed, len(rows_), len(plan.tokens))
    for batch in found["effective_batches"]:
        plan = epoch_plan(dataset.lengths, dataset.supervised, PlanOptions("exact", batch["samples"], 4, 64, 1, 0))
        counts = np.diff(plan.update_offsets)
        assert (batch["updates"], batch["rows_max"]) == (len(counts), counts.max())
        assert batch["rows_mean"] == pytest.approx(counts.mean())
    assert [b["samples"] for b in found["effective_batches"]] == [8, 16, 32, 64, 128]


def vars_of(fill: Any) -> dict[str, Any]:
    return {name: getattr(fill, name) for name in ("packing", "rows", "updates", "computed_tokens", "real_share")}


@pytest.fixture
def messy(model_dir: Path, tmp_path: Path) -> Path:
    """Good rows, and three that cannot be used."""
    bad = [{"instruction": "q", "output": ""}, {"instruction": "q", "output": 3}, {"text": "x"}]
    (tmp_path / "d.json").write_text(json.dumps(rows(40) + bad, indent=1))
    return tmp_path


def prep(folder: Path, model_dir: Path, *words: str) -> Ran:
    ran = cli("prep", *words, f"model_name_or_path={model_dir}", "cutoff_len=64", cwd=folder)
    assert ran.status == 0, ran.err
    return ran


def test_a_person_reads_reasons_cutoffs_and_batches(messy: Path, model_dir: Path) -> None:
    out = prep(messy, model_dir, "d.json").out
    assert "43 read = 40 kept + 3 dropped" in out
    assert f"1 empty_answer  first: d.json:{2 + 40 * 4} (row 40)\n" in out
    assert "the answer is empty or blank; write one, or leave the row out" in out
    assert "the field holds a number, a list or an object where text belongs; write it as text in quotes" in out
    assert "rejected.jsonl" in out
    assert re.search(r"64 +\d+ +\d+\.\d% +\d[\d,]* +\d+\.\d%  current", out)
    assert "suggested: just above the 95th percentile" in out
    assert re.search(r"d\.json:\d+ \(row \d+\)  \d+ of \d+ truncated", out)
    for line in ("packing", "none", "bucketed", "exact", "dense", "samples per step", "128"):
        assert re.search(rf"^ *{line}\b", out, re.MULTILINE), line


def test_rejected_rows_are_mended_and_fed_again(messy: Path, model_dir: Path) -> None:
    report = prep(messy, model_dir, "d.json", "--json").json
    rejected = messy / report["rejected_file"]
    lines = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert [line.pop("rejected")["reason"] for line in lines] == ["empty_answer", "not_text:output", "unknown_format"]
    assert lines == [{"instruction": "q", "output": ""}, {"instruction": "q", "output": 3}, {"text": "x"}]
    text = rejected.read_text().replace('"output": ""', '"output": "a"').replace('"output": 3', '"output": "3"')
    (messy / "mended.jsonl").write_text(text.replace('"text"', '"output"'))
    again = prep(messy, model_dir, "mended.jsonl")
    assert "3 read = 3 kept + 0 dropped" in again.out
    assert "key `rejected`" not in again.out


def test_the_report_is_kept_and_shown_again(messy: Path, model_dir: Path) -> None:
    first = prep(messy, model_dir, "d.json", "--report", "--json").json
    kept = messy / first["path"] / "report"
    assert json.loads((kept / "report.json").read_text()) == first
    picture = imread(kept / "length_histogram.png")
    assert picture.shape[:2] == (540, 960)
    colors = {tuple(c) for c in np.unique((picture[..., :3] * 255).round().astype(int).reshape(-1, 3), axis=0).tolist()}
    assert {(0x1F, 0x77, 0xB4), (0xD9, 0x73, 0x0D)} <= colors
    assert first["explanations"]["unknown_format"]
    # A kept report does not make the folder another one.
    assert prep(messy, model_dir, "d.json", "--json").json["reused"]

    shown = cli("report", first["path"], "--to", "elsewhere", "--json", cwd=messy)
    assert shown.status == 0, shown.err
    assert (messy / "elsewhere" / "length_histogram.png").is_file()
    same = ("cutoffs", "suggested_cutoff", "padding", "rows_dropped", "full_lengths", "effective_batches")
    assert {k: shown.json[k] for k in same} == {k: first[k] for k in same}
    refused = cli("report", "elsewhere", cwd=messy)
    assert refused.status == 1
    assert "is not a prepared dataset" in refused.err


def test_a_plain_prep_draws_nothing_and_loads_no_numpy(messy: Path, model_dir: Path) -> None:
    code = (
        "import sys; from qlora_fast.cli import cli\n"
        f"cli.main(['prep', 'd.json', 'model_name_or_path={model_dir}', '--json'], standalone_mode=False)\n"
        "heavy = {'numpy', 'matplotlib', 'rich', 'torch', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=messy, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not (messy / json.loads(ran.stdout)["path"] / "report").exists()


def test_export_from_the_command_line(messy: Path, model_dir: Path) -> None:
    pytest.importorskip("pyarrow")
    path = prep(messy, model_dir, "d.json", "--json").json["path"]
    done = cli("export", path, "--to", "x.jsonl", "--packed", "128", "--json", cwd=messy).json
    assert done["rows"] < done["samples"] == 40
    assert "rows of 40 samples" in cli("export", path, "--to", "y", cwd=messy).out
    assert (messy / "y" / "data-00000.parquet").is_file()
    assert cli("export", path, "--to", "x.csv", cwd=messy).status == 1


@pytest.mark.parametrize("lengths", [[5], [5, 5, 5], [1, 100_000]], ids=["one", "equal", "far apart"])
def test_odd_lengths_are_drawn_too(tmp_path: Path, lengths: list[int]) -> None:
    from qlora_fast.data.report import draw_lengths

    text = " ".join(f"{n}:{lengths.count(n)}" for n in sorted(set(lengths)))
    sources = [{"path": f"{i}.json"} for i in range(4)]
    report = {"full_lengths": text, "cutoff_len": 64, "suggested_cutoff": 128, "sources": sources}
    assert draw_lengths(report, tmp_path / "x.png").is_file()


@pytest.mark.slow
def test_the_bench_beside_rivals_cannot_rot(model_dir: Path) -> None:
    words = ["--data", ROOT / "tests/data/demo/alpaca_en.json", "--tokenizer", model_dir, "--rounds", "1"]
    words += ["--before", ROOT / "python", "--only", "qlora-fast"]
    command = [sys.executable, "-m", "benches.rivals_prep", *map(str, words)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    names = [line.split("|")[1].strip() for line in ran.stdout.splitlines()[2:]]
    ways = ["first run ever", "before", "one thread", "unchanged", "engine: tokenizers"]
    assert sorted(names) == sorted(["**qlora-fast**", *(f"qlora-fast, {way}" for way in ways)])
