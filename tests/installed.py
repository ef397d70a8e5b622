"""The package as users get it: sdist and wheel built, installed into an empty environment, and used from another folder.

python tests/installed.py [FOLDER]      (`make wheel-test`)

The wheel is built from the sdist, so both are proved by one build. The environment is new and sees the dependencies of the
one that runs this program, but not its editable install: torch is not downloaded again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from importlib.metadata import PathDistribution, version
from pathlib import Path

from packaging.requirements import Requirement

from paths import FIXTURES, ROOT

IN_SDIST = (
    "pyproject.toml", "Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "rust/core/Cargo.toml", "rust/python/src/lib.rs",
    "python/qlora_fast/__init__.py", "python/qlora_fast/_core.pyi", "python/qlora_fast/py.typed",
)  # fmt: skip
IN_WHEEL = ("qlora_fast/_core.abi3.so", "qlora_fast/_core.pyi", "qlora_fast/py.typed", "qlora_fast/cli/prep.py")
NOT_SHIPPED = ("tests/", "benches/", "target/", ".git", ".venv", "__pycache__")
CONFIG = """\
model_name_or_path: model
dataset: data.json
cutoff_len: 128
lora_rank: 4
max_steps: 2
per_device_train_batch_size: 4
output_dir: run
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sdist = built_sdist(folder / "dist")
        check_sdist(sdist)
        wheel = built_wheel(sdist, folder / "dist")
        check_wheel(wheel)
        program = installed(wheel, folder / "environment")
        use(program, folder / "elsewhere")
    print("sdist and wheel: complete, installed, and used from another folder")


def built_sdist(folder: Path) -> Path:
    run([sys.executable, "-m", "maturin", "sdist", "--out", str(folder)], ROOT)
    return next(folder.glob("*.tar.gz"))


def built_wheel(sdist: Path, folder: Path) -> Path:
    """From the sdist, by pip and the build backend, with the crates that are compiled already."""
    environment = {
        "CARGO_TARGET_DIR": str(ROOT / "target"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(sdist)]
    run([sys.executable, "-m", "pip", *words], folder, environment)
    return next(folder.glob("*.whl"))


def check_sdist(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert not (missing := set(IN_SDIST) - set(names)), f"{sdist.name} lacks {missing}"
    assert not (odd := [n for n in names if n.startswith(NOT_SHIPPED) or n.endswith((".so", ".pyc"))]), odd


def check_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = {
        f"qlora_fast/{p.relative_to(ROOT / 'python/qlora_fast')}" for p in (ROOT / "python/qlora_fast").rglob("*.py")
    }
    assert not (missing := ({*IN_WHEEL} | sources) - set(names)), f"{wheel.name} lacks {missing}"
    assert any(name.startswith("qlora_fast/assets/") for name in names), "the embedded data is missing"
    assert not (odd := [name for name in names if name.endswith(".pyc") or name.startswith("tests")]), odd


def installed(wheel: Path, folder: Path) -> Path:
    """The program in an empty environment that holds this wheel; what it declares to need must be there."""
    venv.create(folder, clear=True, with_pip=False)
    python = folder / "bin" / "python"
    run(
        [
            sys.executable,
            "-m",
            "pip",
            f"--python={python}",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        folder,
    )
    packages = next(folder.glob("lib/python*/site-packages"))
    # A plain line adds a folder to the search path without reading the .pth files in it, an editable install among them.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    distribution = PathDistribution(next(packages.glob("qlora_fast-*.dist-info")))
    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert requirement.specifier.contains(version(requirement.name), prereleases=True), line
    place = said([str(python), "-c", "import qlora_fast; print(qlora_fast.__file__)"], folder)
    assert Path(place.strip()).is_relative_to(folder), place
    return folder / "bin" / "qlora-fast"


def use(program: Path, folder: Path) -> None:
    """What a new user types, from a folder that has nothing to do with the repository."""
    import tiny

    folder.mkdir()
    tiny.model_folder(folder / "model")
    rows = json.loads((FIXTURES / "demo" / "alpaca_en.json").read_text(encoding="utf-8"))[:20]
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "my.yaml").write_text(CONFIG, encoding="utf-8")

    def command(*words: str) -> str:
        return said([str(program), *words], folder)

    assert command("--version").strip().endswith(version("qlora-fast"))
    report = json.loads(command("prep", "data.json", "model_name_or_path=model", "cutoff_len=128", "--json"))
    assert report["rows_kept"] == len(rows)
    assert json.loads(command("plan", "my.yaml", "--json"))["updates"] == 2
    assert json.loads(command("train", "my.yaml", "--json"))["train_steps"] == 2
    answers = json.loads(command("chat", "run", "--prompt", "Hello", "--max-new-tokens", "3", "--json"))["answers"]
    assert len(answers) == 1
    identity = json.loads(
        command("prep", "dataset=identity", "variables={name: A, author: B}", "model_name_or_path=model", "--json")
    )
    assert identity["rows_kept"] > 0, "the data in the package is found"


def said(words: list[str], cwd: Path) -> str:
    return run(words, cwd)


def run(words: list[str], cwd: Path, more: dict[str, str] | None = None) -> str:
    """Run a program without this environment's search path; returns its stdout."""
    cwd.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = {**kept, "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", **(more or {})}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\nexit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
