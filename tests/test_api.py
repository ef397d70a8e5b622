"""The public names: lazy, documented, and each with an example that runs; so does every block of docs/python.md."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qlora_fast
from paths import FIXTURES, ROOT
from qlora_fast import errors

FUNCTIONS = ("prepare", "open_prepared", "plan", "train", "evaluate", "merge", "open_chat")


def target(name: str) -> Any:
    """What a name stands for; of a room that can be called, the function."""
    if name in ("train", "merge"):
        return getattr(
            importlib.import_module({"train": "qlora_fast.train.api", "merge": "qlora_fast.merge.merge"}[name]), name
        )
    return getattr(qlora_fast, name)


@pytest.fixture(scope="module")
def workplace(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the examples assume it: data.json, test.json, models/tiny, and a finished run."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(model_dir, folder / "models" / "tiny")
    rows = json.loads((FIXTURES / "demo" / "alpaca_en.json").read_text(encoding="utf-8"))[:20]
    lines = ",\n".join(
        json.dumps({"instruction": row["instruction"][:80], "output": row["output"][:80]}) for row in rows
    )
    (folder / "data.json").write_text(f"[\n{lines}\n]")
    (folder / "test.json").write_text(json.dumps([{"instruction": f"Say {i}.", "output": f"{i}."} for i in range(4)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        qlora_fast.train(
            dataset=["data.json"],
            model_name_or_path="models/tiny",
            output_dir="runs/mine",
            max_steps=2,
            learning_rate=5e-3,
        )
    return folder


@pytest.fixture
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(workplace)
    yield workplace
    for made in ("runs/doc", "runs/python", "merged"):
        shutil.rmtree(workplace / made, ignore_errors=True)


def test_every_public_name_can_be_had_and_is_listed() -> None:
    assert dir(qlora_fast) == sorted(qlora_fast.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", qlora_fast.__version__)
    for name in qlora_fast.__all__:
        assert getattr(qlora_fast, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute `nonsense`"):
        qlora_fast.nonsense  # noqa: B018


def test_every_exception_class_is_public() -> None:
    classes = {n for n, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert classes <= set(qlora_fast.__all__)
    assert all((getattr(errors, name).__doc__ or "").strip() for name in classes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_gives_arguments_results_errors_and_an_example(name: str) -> None:
    text = inspect.getdoc(target(name)) or ""
    assert "Args:" in text
    assert "Raises:" in text
    assert "Example:" in text
    assert "Returns:" in text or name in ("open_prepared", "open_chat")
    documented = set(re.findall(r"^    (\w+):", text, re.MULTILINE))
    assert set(inspect.signature(target(name)).parameters) <= documented


ORDERS = ("qlora_fast.train", "from qlora_fast.train.trainer import Trainer", "import qlora_fast.train.run as r")
"""What is imported first."""


def test_a_room_and_its_function_share_a_name_in_any_order() -> None:
    check = "from qlora_fast.train import api\nimport qlora_fast.merge.weights as w\n"
    check += "assert callable(qlora_fast.train) and callable(qlora_fast.merge) and qlora_fast.train.api is api"
    orders = [f"import qlora_fast\n{first}\n{check}" for first in ORDERS]
    # One process imports torch; its copies import this package, each in another order.
    code = f"""if True:
        import os, peft, torch, transformers
        for order in {orders!r}:
            if os.fork() == 0:
                exec(order)
                os._exit(0)
            assert os.wait()[1] == 0, order"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_what_needs_torch_imports_it() -> None:
    code = "import qlora_fast, sys\n"
    code += "[getattr(qlora_fast, n) for n in qlora_fast.__all__ if n not in ('Chat','ChatSession','Sampling','Merged','open_chat')]\n"
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


EXAMPLES = ["qlora_fast", "errors", *FUNCTIONS, "Config", "PreparedDataset", "Chat.ask"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, here: Path) -> None:
    owner, _, method = name.partition(".")
    found: Any = qlora_fast if name == "qlora_fast" else errors if name == "errors" else target(owner)
    found = getattr(found, method) if method else found
    example = doctest.DocTestParser().get_doctest(
        inspect.getdoc(found) or "", {"qlora_fast": qlora_fast}, name, None, 0
    )
    assert example.examples
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_the_page_about_python_runs_from_top_to_bottom(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "20 samples" in printed
    assert "missing.json" in printed
    for name in FUNCTIONS:
        assert f"`{name}(" in page


def test_settings_beside_a_config_are_refused(here: Path) -> None:
    from qlora_fast.config import of

    with pytest.raises(qlora_fast.ConfigError, match="beside a Config"):
        qlora_fast.train(of(dataset=["data.json"]), max_steps=1)
