"""Compressed data: cut, damaged, nested, with something behind it, and bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from reliability.corpus.entry import ANSWERS, GOOD, Entry, array, lines, row

_GZ, _LINES_GZ = gzip.compress(array(), mtime=0), gzip.compress(lines(), mtime=0)
_SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"


def _zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)  # type: ignore[no-any-return]


def _bomb(count: int, head: bytes, tail: bytes, unit: bytes) -> Callable[[], bytes]:
    """``count`` megabytes that become a few kilobytes."""

    def make() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "b"
            with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as stream:
                stream.write(head)
                for _ in range(count):
                    stream.write(unit * (10**6 // len(unit)))
                stream.write(tail)
            return path.read_bytes()

    return make


def _tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        about = tarfile.TarInfo("a.json")
        about.size = len(array())
        archive.addfile(about, io.BytesIO(array()))
    return made.getvalue()


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.json", array())
    return made.getvalue()


def _changed(content: bytes, at: int, value: bytes) -> bytes:
    made = bytearray(content)
    at %= len(made)
    made[at : at + len(value)] = value
    return bytes(made)


_GZIP = (
    Entry("gzip", _GZ, "taken", "d.json.gz", ANSWERS),
    Entry("gzip under another name", _GZ, "taken", "d.json", ANSWERS),
    Entry("no gzip under its name", array(), "taken", "d.json.gz", ANSWERS),
    Entry("gzip, cut", _GZ[:-12], "refused", "d.json.gz"),
    Entry("gzip, cut between lines", lambda: gzip.compress(lines() * 5000)[:700], "refused", "d.jsonl.gz"),
    Entry("gzip without its end", _LINES_GZ[:-8], "refused", "d.jsonl.gz"),
    Entry("gzip, only the head", _GZ[:10], "refused", "d.json.gz"),
    Entry("gzip, two bytes", _GZ[:2], "refused", "d.json.gz"),
    Entry("gzip, wrong checksum", _changed(_GZ, -8, b"\0\0\0\0"), "refused", "d.json.gz"),
    Entry("gzip, wrong length", _changed(_GZ, -4, b"\1\1\1\1"), "refused", "d.json.gz"),
    Entry("gzip, an unknown method", _changed(_GZ, 2, b"\7"), "refused", "d.json.gz"),
    Entry("gzip with rubbish behind it", _GZ + b"rubbish behind", "refused", "d.json.gz"),
    Entry("gzip with NULs behind it", _GZ + b"\0" * 512, "refused", "d.json.gz"),
    Entry("gzip of two members", gzip.compress(lines(GOOD[:1])) + gzip.compress(lines(GOOD[1:])), "taken", "d.jsonl.gz", ANSWERS),
    Entry(
        "gzip with an empty member",
        gzip.compress(lines(GOOD[:1])) + gzip.compress(b"") + gzip.compress(lines(GOOD[1:])), "taken", "d.jsonl.gz", ANSWERS,
    ),
    Entry("gzip members that cut a row", gzip.compress(lines()[:20]) + gzip.compress(lines()[20:]), "taken", "d.jsonl.gz", ANSWERS),
    Entry("gzip of nothing", gzip.compress(b""), "refused", "d.json.gz"),
    Entry("gzip of gzip", gzip.compress(_GZ), "refused", "d.json.gz"),
    Entry("gzip of UTF-16", gzip.compress(array().decode().encode("utf-16")), "refused", "d.json.gz"),
    Entry("gzip of blanks, 1 GB", lambda: gzip.compress(b" " * 10**8) * 10, "refused", "d.json.gz", seconds=120),
)  # fmt: skip
_ZSTD = (
    Entry("zstd", _zstd(array()), "taken", "d.json.zst", ANSWERS),
    Entry("zstd, cut", _zstd(array())[:-6], "refused", "d.json.zst"),
    Entry("zstd, cut far inside", lambda: _zstd(lines([row(str(i), str(i * i)) for i in range(20_000)]))[:-1000], "refused", "d.jsonl.zst"),
    Entry("zstd, only the mark", _zstd(array())[:4], "refused", "d.json.zst"),
    Entry("zstd of two frames", _zstd(lines(GOOD[:1])) + _zstd(lines(GOOD[1:])), "taken", "d.jsonl.zst", ANSWERS),
    Entry("zstd behind a skippable frame", _SKIPPABLE + _zstd(lines()), "taken", "d.jsonl.zst", ANSWERS),
    Entry("zstd, only a skippable frame", _SKIPPABLE, "refused", "d.jsonl.zst"),
    Entry("zstd with rubbish behind it", _zstd(lines()) + b"rubbish", "refused", "d.jsonl.zst"),
    Entry("zstd with a huge window", _changed(_zstd(lines()), 4, b"\x00\xff"), "refused", "d.jsonl.zst"),
    Entry("zstd bomb: a text of 2 GB", _bomb(2000, b'[{"instruction":"a","output":"', b'"}]', b"x" * 10**6), "refused", "d.json.zst", seconds=120),
    Entry("zstd bomb: 1 GB of blanks", _bomb(1000, b"[", array(GOOD[0]) + b"]", b" " * 10**6), "taken", "d.json.zst", ANSWERS[:1], 180),
    Entry("zstd bomb: 1 GB of line ends", _bomb(1000, lines(GOOD[:1]), lines(GOOD[1:]), b"\n" * 10**6), "taken", "d.jsonl.zst", ANSWERS, 180),
)  # fmt: skip
_OTHERS = (
    Entry("zip", _zip(), "refused"),
    Entry("zip, cut", b"PK\x03\x04" + b"\0" * 100, "refused"),
    Entry("xz", lzma.compress(array()), "refused"),
    Entry("bzip2", bz2.compress(array()), "refused"),
    Entry("tar", _tar(), "refused"),
    Entry("tar and gzip", gzip.compress(_tar()), "refused", "d.tar.gz"),
)

ENTRIES = (*_GZIP, *_ZSTD, *_OTHERS)
