"""The config means what it says: typed scalars, no duplicate or unknown key, all problems at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paths import ROOT
from qlora_fast.config import KEYS, Config, dump, example, load, of
from qlora_fast.config.keys import affecting
from qlora_fast.errors import ConfigError


def problems(text: str, tmp_path: Path, *overrides: str) -> str:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value).replace(str(path), "x.yaml")


def config(text: str, tmp_path: Path, *overrides: str) -> Config:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, overrides).config


@pytest.mark.parametrize("text", ["5e-5", "5E-5", "0.00005", "5.0e-05"])
def test_a_float_is_a_float_however_written(text: str, tmp_path: Path) -> None:
    assert config(f"learning_rate: {text}", tmp_path).learning_rate == 5e-5


def test_no_is_an_eval_strategy_and_a_boolean(tmp_path: Path) -> None:
    read = config("eval_strategy: no\nplot_loss: no", tmp_path)
    assert (read.eval_strategy, read.plot_loss) == ("no", False)


def test_leading_zeros_are_decimal(tmp_path: Path) -> None:
    assert config("seed: 012", tmp_path).seed == 12  # YAML 1.1 reads 10


def test_every_problem_is_reported_with_its_line(tmp_path: Path) -> None:
    text = "lora_rank: x\nlora_rnak: 3\nstage: dpo\ncutoff_len: 3\nlora_rank: 4\nlearning_rate: nan\n"
    assert problems(text, tmp_path, "foo", "lora_dropout=1").splitlines() == [
        "8 problems in the config",
        "  x.yaml:5: `lora_rank` is set twice; it was set at x.yaml:1",
        "  `foo` is not `key=value`",
        "  x.yaml:1: `lora_rank` must be a whole number of at least 1, not `x`",
        "  x.yaml:2: unknown key `lora_rnak`; did you mean `lora_rank`?",
        "  x.yaml:3: `stage: dpo` is not supported; only sft is: this program does supervised fine-tuning",
        "  x.yaml:4: `cutoff_len` must be a whole number of at least 8, not `3`",
        "  x.yaml:6: `learning_rate` must be a number greater than 0, not `nan`",
        "  `lora_dropout=1`: `lora_dropout` must be a number from 0 to below 1, not `1`",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("val_size: 0.1\neval_dataset: e.json", "`eval_dataset` cannot be combined with val_size"),
        ("eval_strategy: steps", "`eval_strategy` has nothing to evaluate on"),
        ("load_best_model_at_end: true", "`load_best_model_at_end` needs evaluations"),
        ("overwrite_output_dir: true\nresume_from_checkpoint: true", "cannot be combined with overwrite_output_dir"),
        ("packing: exakt", "did you mean exact?"),
        ("deepspeed: ds.json", "`deepspeed: ds.json` is not supported: the adapter is small"),
        ("lora_r: 8", "did you mean `lora_rank`?"),
        ("plot_loss: maybe", "must be true or false"),
        ("- a\n- b", "must be lines of `key: value`"),
        ("a: [", "is not valid YAML"),
        ("variables: 3", "must be a mapping"),
        ("lora_target: {a: b}", "must be a list"),
    ],
)
def test_contradictions_are_named(text: str, words: str, tmp_path: Path) -> None:
    assert words in problems(text, tmp_path)


def test_a_llamafactory_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "lf.yaml"
    path.write_text(
        "model_name_or_path: Qwen/Qwen3-0.6B\nstage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 8\n"
        "lora_target: all\ndataset: a.json,b.json\ntemplate: qwen3\ncutoff_len: 2048\nmax_samples: 1000\n"
        "overwrite_cache: true\npreprocessing_num_workers: 16\ndataloader_num_workers: 4\noutput_dir: saves/x\n"
        "logging_steps: 10\nsave_steps: 500\nplot_loss: true\noverwrite_output_dir: true\nreport_to: none\n"
        "per_device_train_batch_size: 1\ngradient_accumulation_steps: 8\nlearning_rate: 1.0e-4\n"
        "num_train_epochs: 3.0\nlr_scheduler_type: cosine\nwarmup_ratio: 0.1\nbf16: true\nddp_timeout: 180000000\n"
        "resume_from_checkpoint: null\nval_size: 0.1\nper_device_eval_batch_size: 1\neval_strategy: steps\n"
        "eval_steps: 500\ntrust_remote_code: true\n"
    )
    loaded = load(path)
    assert loaded.config.dataset == ["a.json", "b.json"]
    assert loaded.config.learning_rate == 1e-4
    assert any("trust_remote_code" in line for line in loaded.ignored)


def test_extends_takes_what_is_not_said(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("lora_rank: 4\nseed: 1\n")
    assert config("extends: base.yaml\nseed: 2\n", tmp_path).lora_rank == 4
    assert config("extends: base.yaml\nseed: 2\n", tmp_path).seed == 2
    assert "goes in a circle" in problems("extends: x.yaml\n", tmp_path)


def test_overrides_are_taken_as_they_stand(tmp_path: Path) -> None:
    read = config("", tmp_path, "dataset=C:/a b#1.json,d.json", "default_system=", "variables={name: K, author: L M}")
    assert read.dataset == ["C:/a b#1.json", "d.json"]
    assert read.default_system is None
    assert read.variables == {"name": "K", "author": "L M"}


CONFIGS = sorted(example.names().values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_configs_load(path: Path) -> None:
    assert load(path).ignored == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_resolved_config_reads_back_equal(path: Path, tmp_path: Path) -> None:
    resolved = load(path).config
    (tmp_path / "config.yaml").write_text(dump(resolved), encoding="utf-8")
    assert load(tmp_path / "config.yaml").config == resolved


def test_the_guides_recipe_is_the_guides() -> None:
    best = load(ROOT / "configs/guide/exp4.yaml").config
    assert (best.lora_rank, best.alpha, best.lora_dropout, best.learning_rate) == (32, 64, 0.05, 5e-5)
    assert best.per_device_train_batch_size * best.gradient_accumulation_steps == 32


@given(st.sampled_from(sorted(KEYS)), st.integers(0, 30), st.characters(codec="ascii", categories=["Ll"]))
def test_one_wrong_letter_never_passes(name: str, at: int, letter: str) -> None:
    wrong = name[: at % len(name)] + letter + name[at % len(name) + 1 :]
    if wrong in KEYS or wrong == "extends":
        return
    with pytest.raises(ConfigError, match=r"unknown key|not supported|cannot be honoured"):
        load(None, [f"{wrong}=1"])


def test_settings_from_python_are_held_to_the_same_limits() -> None:
    made = of(
        lora_rank=16,
        learning_rate=1e-4,
        bf16=True,
        dataset=("a.json", Path("b.json")),
        variables={"n": 1},
        max_steps=None,
    )
    assert (made.lora_rank, made.learning_rate, made.bf16, made.max_steps) == (16, 1e-4, True, None)
    assert (made.dataset, made.variables) == (["a.json", "b.json"], {"n": "1"})
    assert of() == Config()
    assert of(**{name: getattr(made, name) for name in KEYS}) == made
    with pytest.raises(ConfigError) as caught:
        of(lora_rnak=3, cutoff_len=3, lora_rank=1.5, packing="exakt")
    assert str(caught.value).splitlines() == [
        "4 problems in the config",
        "  unknown key `lora_rnak`; did you mean `lora_rank`?",
        "  `cutoff_len` must be a whole number of at least 8, not `3`",
        "  `lora_rank` must be a whole number of at least 1, not `1.5`",
        "  `packing` must be one of exact, dense, bucketed, none; not `exakt` (did you mean exact?)",
    ]


def test_no_setting_is_accepted_without_an_effect() -> None:
    """Every key is read somewhere behind the config, by its own name or through one of the config's properties."""
    package = ROOT / "python" / "qlora_fast"
    properties = ast.parse((package / "config" / "config.py").read_text(encoding="utf-8"))
    read = {node.attr for node in ast.walk(properties) if isinstance(node, ast.Attribute)}
    read |= {*affecting("data", "preparation")}  # handed to the core by that name
    for path in package.rglob("*.py"):
        if path.parent.name not in ("config", "keys", "foreign"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            read |= {
                n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and "config" in ast.unparse(n.value)
            }
    # The one library and the one method that there are.
    assert set(KEYS) - read == {"quantization_method"}
