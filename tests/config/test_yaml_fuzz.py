"""Any bytes as a config: it is read, or refused with a ConfigError. `make fuzz` runs this for longer."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from paths import ROOT
from qlora_fast.config import load
from qlora_fast.config.keys import KEYS
from qlora_fast.errors import ConfigError

SECONDS = float(os.environ.get("QLORA_FAST_FUZZ_SECONDS", "1.0"))
WORDS = [
    "---", "...", "? ", ": ", "- ", "!!python/object:os.system", "!!binary x", "!!float ", "&a ", "*a", "<<: *a", "[", "]", "{",
    "}", "|", ">-", '"', "'", "\\x00", "#", "@", "`", "%YAML 9.9", "~", "null", "NaN", ".inf", "-.inf", "1e999", "0x1f", "1_0",
    "0o17", "2024-01-01", "12:30:45", "yes", "\t", "\r", "\u2028", "\ufeff", "\ud7ff", "9" * 400, "$HOME", "$NOT_SET", "~/x",
    "extends: ", "variables: ", "dataset: ", "true", "-1", "0", "1.5", "a,b", "auto", *list(KEYS)[::7],
]  # fmt: skip


def seeds() -> list[bytes]:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert len(files) >= 3
    return [*(path.read_bytes() for path in files), b"a: &a [*a]\n", b"a: &a {b: *a}\nlora_rank: *a\n"]


def mutated(rng: random.Random, pool: list[bytes]) -> bytes:
    data = bytearray(rng.choice(pool))
    for _ in range(rng.randint(1, 6)):
        at, size = rng.randint(0, len(data)), rng.choice((1, 2, 5, 20, 100))
        match rng.randrange(6):
            case 0 if data:
                data[at - 1] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[rng.randint(0, len(data)) :][:size] * rng.randint(1, 9)
            case 3:
                data[at:at] = rng.randbytes(min(size, 5))
            case 4:
                other = rng.choice(pool)
                data[at : at + size] = other[rng.randint(0, len(other)) :][: 4 * size]
            case _:
                data[at:at] = rng.choice(("", "\n", " ", "\n  ")).encode() + rng.choice(WORDS).encode()
    return bytes(data[:20_000])


def test_no_config_ends_in_anything_but_a_config_error(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    rng, pool, path = random.Random(seed), seeds(), tmp_path / "c.yaml"
    executions, ends = 0, time.monotonic() + SECONDS
    while time.monotonic() < ends:
        content = mutated(rng, pool)
        path.write_bytes(content)
        executions += 1
        try:
            load(path)
        except ConfigError:
            pass
        except BaseException as error:
            pytest.fail(f"{type(error).__name__}: {error}\nseed {seed}, execution {executions}: {content!r}")
        if rng.random() < 0.01:
            pool.append(content)
    print(f"yaml       {executions:>12} executions, 0 failures")
    assert executions > 20


@pytest.mark.parametrize(
    "content", [b"{" * 5000, b"- " * 5000, b"a: " + b"[" * 3000, b'"\\UFFFFFFFF"', b"\x00", b"a: !!int x", b"? [1]"]
)
def test_what_once_ended_otherwise_or_may(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(tmp_path / "c.yaml")
