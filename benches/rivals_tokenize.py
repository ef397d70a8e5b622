"""Encoding beside the rivals, in one run: MB/s cold and warm, one and two threads, each measurement in a process of its own.

    python -m benches.rivals_tokenize TOKENIZER.json TEXTS.json [TEXTS.json …]

A rival that is not installed is left out (``pip install tokenizers tiktoken gigatoken tokie`` brings them all). *Cold* is the first
call of a fresh process with the tokenizer loaded, *warm* the second on the same texts. The engines take turns, medians
of the rounds are printed, and how many texts have other ids than ``tokenizers``.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Encode = Callable[[list[str]], Any]
Load = Callable[[str, int], tuple[Encode, Callable[[Any], list[list[int]]]]]


def ours(engine: str) -> Load:
    def load(path: str, threads: int) -> tuple[Encode, Callable[[Any], list[list[int]]]]:
        from qlora_fast._core import Tokenizer
        from qlora_fast.hub.cache import cache_dir

        tokenizer = Tokenizer(path, engine=engine, cache=cache_dir())

        def lists(result: Any) -> list[list[int]]:
            ids, offsets = result
            return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]

        return lambda texts: tokenizer.encode_batch(texts, threads=threads), lists

    return load


def without_added_tokens(path: str) -> str:
    """The file as every engine here sees it: text is text, and nothing is added to it."""
    file = json.loads(Path(path).read_text(encoding="utf-8"))
    file |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return json.dumps(file, ensure_ascii=False)


def load_tokenizers(path: str, threads: int) -> tuple[Encode, Callable[[Any], list[list[int]]]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(without_added_tokens(path))
    return tokenizer.encode_batch_fast, lambda result: [e.ids for e in result]


def load_tiktoken(path: str, threads: int) -> tuple[Encode, Callable[[Any], list[list[int]]]]:
    import tiktoken

    file = json.loads(Path(path).read_text(encoding="utf-8"))
    pattern = file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in letters]
    byte_of = {chr(b): b for b in letters} | {chr(256 + i): b for i, b in enumerate(others)}
    ranks = {bytes(byte_of[c] for c in token): i for token, i in file["model"]["vocab"].items()}
    encoding = tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=threads), lambda result: result


def load_gigatoken(path: str, threads: int) -> tuple[Encode, Callable[[Any], list[list[int]]]]:
    import gigatoken

    tokenizer = gigatoken.Tokenizer.from_json(without_added_tokens(path))
    return tokenizer.encode_batch, lambda result: result.to_list()


def load_tokie(path: str, threads: int) -> tuple[Encode, Callable[[Any], list[list[int]]]]:
    import tokie

    tokenizer = tokie.Tokenizer.from_json(path)

    def lists(result: Any) -> list[list[int]]:
        ids, lengths = result
        ends = lengths.cumsum()
        return [ids[end - n : end].tolist() for end, n in zip(ends, lengths, strict=True)]

    return lambda texts: tokenizer.encode_batch_flat(texts, add_special_tokens=False), lists


ENGINES: dict[str, Load] = {
    "qlora-fast": ours("native"),
    "gigatoken": load_gigatoken,
    "tokie": load_tokie,
    "tiktoken": load_tiktoken,
    "tokenizers": load_tokenizers,
}


def texts_of(path: str) -> list[str]:
    """The strings of each record, joined by a line break."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        records = json.loads(text)
    except json.JSONDecodeError:
        records = [json.loads(line) for line in text.splitlines()]

    def strings(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [s for v in values for s in strings(v)]

    return ["\n".join(strings(record)) for record in records]


def measure(engine: str, tokenizer: str, data: str, threads: int) -> dict[str, Any]:
    """One measurement, in this process: seconds to load, cold and warm, and a hash of each text's ids."""
    import numpy as np

    # Columns of NumPy are what some give back; its import is not part of encoding.
    np.zeros(1)
    texts = texts_of(data)
    started = time.perf_counter()
    encode, lists = ENGINES[engine](tokenizer, threads)
    times = [time.perf_counter() - started]
    for _ in range(2):
        started = time.perf_counter()
        result = encode(texts)
        times.append(time.perf_counter() - started)
    hashes = [hashlib.blake2b(json.dumps(ids).encode(), digest_size=6).hexdigest() for ids in lists(result)]
    return {"load": times[0], "cold": times[1], "warm": times[2], "hashes": hashes}


def run(engine: str, tokenizer: str, data: str, threads: int) -> dict[str, Any] | None:
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    env = {
        **os.environ,
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        # A thread of NumPy's would spin on the second core for a tenth of a second after its import.
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "benches.rivals_tokenize", "--one", engine, str(threads), tokenizer, data]
    # One thread is one core: some engines take all cores whatever they are told.
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cpus)), *command], capture_output=True, text=True, env=env, check=False
    )
    if done.returncode:
        print(
            f"  {engine}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}", file=sys.stderr
        )
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(tokenizer: str, data: str, rounds: int, slow_rounds: int) -> None:
    texts = texts_of(data)
    size = sum(len(t.encode()) for t in texts) / 1e6
    print(f"\n{Path(data).name}: {len(texts):,} texts, {size:.1f} MB, {rounds} rounds\n")
    print(
        "| engine | load s | cold 1 | warm 1 | cold 2 | warm 2 | texts with other ids |\n|---|---|---|---|---|---|---|"
    )
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for round_ in range(rounds):
        for engine in ENGINES:
            for threads in (1, 2):
                # Fewer rounds are enough for those that are an order slower.
                enough = engine in ("tokenizers", "tiktoken") and round_ >= slow_rounds
                one = None if enough else run(engine, tokenizer, data, threads)
                if one:
                    found.setdefault((engine, threads), []).append(one)
    reference = found[("tokenizers", 1)][0]["hashes"]
    for engine in ENGINES:
        if (engine, 1) not in found:
            continue
        load = statistics.median(one["load"] for one in found[(engine, 1)])
        rates = [
            f"{size / statistics.median(one[kind] for one in found[(engine, threads)]):.1f}"
            for threads in (1, 2)
            for kind in ("cold", "warm")
            if (engine, threads) in found
        ]
        both = [found[(engine, threads)][0]["hashes"] for threads in (1, 2) if (engine, threads) in found]
        other = sum(any(own != one for own in each) for one, *each in zip(reference, *both, strict=True))
        print(f"| {engine} | {load:.3f} | {' | '.join(rates)} | {other} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        engine, threads, tokenizer, data = sys.argv[2:]
        print(json.dumps(measure(engine, tokenizer, data, int(threads))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=1, help="of tokenizers and tiktoken")
    args = parser.parse_args()
    for data in args.texts:
        compare(args.tokenizer, data, args.rounds, args.slow_rounds)


if __name__ == "__main__":
    main()
