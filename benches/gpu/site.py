"""Packages to carry to a GPU machine that lacks them and reaches no registry, unpacked for its Python:

    python -m benches.gpu.site --python 3.12 --cuda 130        # into target/gpu-site; carry it with _core.abi3.so

msgspec is needed by the package's settings; bitsandbytes by the NF4 items, and of its libraries only the machine's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SITE = Path(__file__).parents[2] / "target" / "gpu-site"
PACKAGES = ("msgspec", "bitsandbytes")


def unpack(wheels: Path, site: Path, cuda: str) -> list[str]:
    """Unpack all wheels of a folder; of bitsandbytes' libraries those for a CPU and for one CUDA. Gives their names."""
    shutil.rmtree(site, ignore_errors=True)
    names = []
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        names.append("-".join(wheel.name.split("-")[:2]))
    for library in site.glob("bitsandbytes/libbitsandbytes_*"):
        if library.stem.removeprefix("libbitsandbytes_") not in ("cpu", f"cuda{cuda}"):
            library.unlink()
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="the machine's Python")
    parser.add_argument("--cuda", default="130", help="the CUDA of its torch: 130 for 13.0")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", words.python, "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, *PACKAGES], check=True)
        names = unpack(Path(folder), SITE, words.cuda)
    print(
        f"{', '.join(names)} in {SITE}: {sum(f.stat().st_size for f in SITE.rglob('*') if f.is_file()) / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    main()
