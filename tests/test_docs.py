"""The docs are true where a machine can tell: links resolve, commands and options exist, YAML loads, figures add up."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from paths import ROOT
from qlora_fast.cli import COMMANDS, cli
from qlora_fast.config import KEYS, load
from qlora_fast.config.foreign import RULES, TRANSLATED
from qlora_fast.data.plan import PlanOptions, epoch_plan, split
from qlora_fast.data.prepare import prepare_config
from qlora_fast.model.gather import LINKS, gather
from qlora_fast.model.memory_estimate import Method, variants
from qlora_fast.model.shapes import SHAPES, gb, guide_table, shape_of
from qlora_fast.model.sharded_memory import GB, fits
from qlora_fast.train.schedule import total_updates, updates_per_epoch

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "BENCHMARKS.md", *sorted((ROOT / "docs").glob("*.md"))]


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in {slug(h) for h in re.findall(r"^#+ (.*)$", text(there), re.MULTILINE)}, target


def test_every_page_is_in_the_index() -> None:
    index = text(ROOT / "docs" / "README.md")
    assert all(f"({page.name})" in index for page in PAGES if page.parent == ROOT / "docs" and page.name != "README.md")


def test_every_launch_on_one_machine_says_so() -> None:
    """In older versions of torch two runs would otherwise want the same port."""
    places = [*PAGES, *(ROOT / "python").rglob("*.py")]
    launches = [(page.name, words) for page in places for words in re.findall(r"torchrun --[\w-]+", text(page))]
    assert ("recipes.md", "torchrun --standalone") in launches
    assert not [found for found in launches if found[1] == "torchrun --nproc-per-node"]


def commands(page: Path) -> list[str]:
    """Every `qlora-fast …` of a page: in blocks, and between backticks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL))
    return [
        found[0]
        for line in [*lines, *spans]
        if (found := re.search(r"(qlora-fast|-m qlora_fast(\.cli)?)( .*)?$", line))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line.split("  #")[0].split(" #")[0].split(";")[0].split("|")[0].replace("…", ""))
        words = words[2:] if words[0] == "-m" else words[1:]
        while words and words[0] in ("-q", "--quiet", "--help", "--version"):
            words = words[1:]
        if not words:
            continue
        assert words[0] in COMMANDS, f"{page.name}: `{line}`"
        command: click.Command | None = cli.get_command(click.Context(cli), words[0])
        rest = words[1:]
        if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            command = command.commands[rest[0]]
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{page.name}: `{line}`"
            elif re.match(r"[a-z_0-9]+=", word):
                assert word.split("=")[0] in KEYS, f"{page.name}: `{line}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_yaml_blocks_load(page: Path) -> None:
    for i, block in enumerate(blocks(page, "yaml")):
        path = ROOT / f".docs-{page.stem}-{i}.yaml"  # here, so that `extends` finds configs/
        path.write_text(block, encoding="utf-8")
        try:
            loaded = load(path, [] if "eval_strategy" not in block or "val_size" in block else ["val_size=0.1"])
        finally:
            path.unlink()
        assert loaded.ignored == [], f"{page.name}: {block}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_settings_named_in_the_docs_exist(page: Path) -> None:
    known = set(KEYS) | set(RULES) | set(TRANSLATED) | {"extends", "key"}
    for span in re.findall(r"`([a-z_0-9]+)[:=] ?[\w./-]*`", text(page)):
        assert span in known, f"{page.name} names `{span}`"


@pytest.mark.parametrize(
    ("recipe", "data"),
    [
        ("gpu-8gb", "alpaca_en.json"),
        ("gpu-24gb", "alpaca_en.json"),
        ("chinese-qa", "alpaca_zh.json"),
        ("multi-turn-chat", "messages.json"),
    ],
)
def test_a_recipe_prepares_and_plans_the_data_it_is_for(
    recipe: str, data: str, model_dir: Path, tmp_path: Path
) -> None:
    path = ROOT / "configs" / "recipes" / f"{recipe}.yaml"
    assert f"(../python/qlora_fast/config/examples/recipes/{recipe}.yaml)" in text(ROOT / "docs" / "recipes.md")
    places = [
        f"model_name_or_path={model_dir}",
        f"dataset={ROOT / 'tests/data/demo' / data}",
        f"prepared_dir={tmp_path}",
    ]
    loaded = load(path, places)
    assert loaded.ignored == []
    dataset = prepare_config(loaded.config).open()
    train, held = split(len(dataset), loaded.config.val_size, loaded.config.seed)
    assert len(train)
    assert len(held)
    plan = epoch_plan(dataset.lengths[train], dataset.supervised[train], PlanOptions.of(loaded.config))
    assert len(plan.sample_ids) == len(train)
    assert {p.stem for p in path.parent.glob("*.yaml")} == {"gpu-8gb", "gpu-24gb", "chinese-qa", "multi-turn-chat"}


def test_the_step_counts_of_the_guide_are_as_the_page_says() -> None:
    page = text(ROOT / "docs" / "guide.md")
    rows = [(5986, 32, 3, 564), (1496, 32, 3, 141), (5986, 128, 3, 141)]
    for samples, batch, epochs, expected in rows:
        assert total_updates(updates_per_epoch(samples, batch), epochs, None) == expected
        assert str(expected) in page
    held = len(split(1496, 0.1, 42)[0])
    assert [total_updates(updates_per_epoch(held, 32), e, None) for e in (3, 5)] == [129, 215]


def test_the_weights_in_the_recipes_add_up() -> None:
    """Qwen3's published shapes: linear layers in 4 bits with double quantization, embedding and head in 16."""
    shapes = {  # layers, width, query width, key/value width, feed-forward width, tied
        "Qwen3-0.6B": (28, 1024, 2048, 1024, 3072, True),
        "Qwen3-4B": (36, 2560, 4096, 1024, 9728, True),
        "Qwen3-8B": (36, 4096, 4096, 1024, 12288, False),
        "Qwen3-14B": (40, 5120, 5120, 1024, 17408, False),
    }
    recipes = text(ROOT / "docs" / "recipes.md")
    for name, (layers, width, query, pair, ffn, tied) in shapes.items():
        linear = layers * (2 * width * query + 2 * width * pair + 3 * width * ffn)
        embedding = 151_936 * width * (1 if tied else 2)
        quantized = linear * (4 + 0.127) / 8 + embedding * 2
        said = re.search(rf"\| {re.escape(name)} \| ([\d.]+) GB \| ([\d.]+) GB \(([\d.]+)\) \|", recipes)
        assert said, name
        for shown, bytes_ in zip(said.groups(), ((linear + embedding) * 2, quantized, embedding * 2), strict=True):
            digits = len(shown.split(".")[1])
            assert abs(float(shown) - bytes_ / 1e9) <= 0.6 * 10**-digits, (name, shown, bytes_ / 1e9)
    assert "630,784" in text(ROOT / "docs" / "guide.md")
    layer = 2 * (1024 + 2048) + 2 * (1024 + 1024) + 3 * (1024 + 3072)
    assert 28 * layer == 630_784


def test_the_guides_memory_table_is_the_one_that_memory_prints() -> None:
    page = text(ROOT / "docs" / "guide.md")
    rows = guide_table(2048)
    for size in ("0.6B", "7B", "14B", "72B"):
        full, lora, qlora = (
            next(r for r in rows if (r.size, r.method) == (size, m)) for m in ("full", "LoRA", "QLoRA")
        )
        columns = [
            ", ".join(f"{r.guide:g}" for r in (full, lora, qlora)),
            ", ".join(gb(r.weights) for r in (lora, qlora)),
            ", ".join(gb(r.total) for r in (full, lora, qlora)),
        ]
        assert f"| {size} | {' | '.join(columns)} |" in page


def test_the_memory_that_the_recipes_promise() -> None:
    shape = shape_of("Qwen/Qwen3-8B")
    assert shape is not None
    big = load(ROOT / "configs/recipes/gpu-24gb.yaml").config
    assert gb(variants(shape, big, big.row_budget)["16 bits, checkpointing"].total) == "19.2"
    assert "19.2 GB" in text(ROOT / "configs/recipes/gpu-24gb.yaml")
    small = load(ROOT / "configs/recipes/gpu-8gb.yaml", ["lora_rank=8", "cutoff_len=512"]).config
    assert gb(variants(shape, small, small.row_budget)["4 bits, checkpointing"].total) == "7.57"
    assert "7.6 GB" in text(ROOT / "configs/recipes/gpu-8gb.yaml")


def test_tokens_of_the_truncation_rule_are_as_the_page_says() -> None:
    assert "100,000" in text(ROOT / "docs" / "guide.md")
    prompt, answer, budget = 100_000, 1_024, 2_048
    assert int(budget * answer / (prompt + answer)) == 20


def test_the_tables_of_what_fits_where() -> None:
    page = text(ROOT / "docs" / "time_and_memory.md")
    found = re.findall(r"^\| Qwen2.5-72B, (\d+) bits \|(.*)\|$", page, re.MULTILINE)
    assert [bits for bits, _ in found] == ["4", "8", "16"]
    for bits, cells in found:
        method = Method(bits=None if bits == "16" else int(bits), checkpointing=True)
        for (devices, each), cell in zip([(4, 24), (2, 48), (2, 80), (4, 80)], cells.split("|"), strict=True):
            verdict = fits(SHAPES["qwen2.5-72b"], method, devices, each * GB)
            assert cell.strip() == f"{'yes' if verdict.fits else 'no'}, {gb(verdict.memory.total)}"
    found = re.findall(r"^\| Qwen3-(8|32)B \| (\d+) GB \| yes, ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [size for size, *_ in found] == ["8", "32"]
    for size, each, total, host in found:
        method = Method(bits=4, checkpointing=True)
        verdict = fits(SHAPES[f"qwen3-{size}b"], method, 1, int(each) * GB, offload=True)
        assert (verdict.fits, gb(verdict.memory.total), gb(verdict.host)) == (True, total, host)


def test_the_tables_of_bytes_per_row_and_rows_that_hide_them() -> None:
    page = text(ROOT / "docs" / "scale.md")
    found = re.findall(r"^\| (Qwen[\w.-]+), (\d+) bits \| ([\d.]+) \|(.*)\|$", page, re.MULTILINE)
    kinds = [(name, bits) for name, bits, *_ in found]
    assert kinds == 2 * [(f"Qwen{n}B", bits) for n in ("3-0.6", "3-8", "3-32", "2.5-72") for bits in ("4", "16")]
    for i, (name, bits, fetched, cells) in enumerate(found):
        devices, links = (4, list(LINKS)) if i < 8 else (1, ["PCIe 5", "PCIe 4"])
        method = Method(bits=None if bits == "16" else int(bits), checkpointing=True)
        fetches = gather(SHAPES[name.lower()], method, devices)
        assert fetched == gb(fetches.bytes_per_row)
        assert [cell.strip() for cell in cells.split("|")] == [f"{fetches.tokens_to_hide(link):,}" for link in links]


def test_the_readme_names_the_disk_space_that_the_makefile_asks_for() -> None:
    (asked,) = re.findall(r"^DISK_GB := (\d+)$", text(ROOT / "Makefile"), re.MULTILINE)
    assert f"({asked} GB of disk" in text(ROOT / "README.md")
