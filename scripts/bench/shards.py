"""Measure what a shard of `generate` takes, by the number of shards: none may wait for another.

    python scripts/bench/shards.py [--rows 1024] [1 2 4 8 16 32 64]

A tiny model of random weights answers the rows; the shards of a number are run one after the other
in this process, each with a store that holds what the ones before it left. On as many machines the
longest one is what a user would wait for, so the product of number and longest stays level where
shards cost nothing. Seconds are CPU seconds of the stage, with what it does besides answering:
loading, looking for the other shards' records and, in the last, merging them.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

CHUNK_ROWS = 16


def seconds_of_shards(model: Path, rows: int, shards: int) -> list[float]:
    """Answer `rows` rows by so many shards; return the CPU seconds of each."""
    from qatune import recipe
    from qatune.stages import generate, preprocess
    from qatune.store.artifacts import StageRun
    from qatune.store.memory import MemoryStore

    store = MemoryStore()
    with tempfile.TemporaryDirectory() as folder:
        ours = recipe.validate(fields(model, Path(folder) / "rows.csv", rows))
        preprocess.run(StageRun.open(store, "bench", "preprocess", ours))
        taken = []
        for number in range(shards):
            began = time.process_time()
            generate.run(StageRun.open(store, "bench", "generate", ours), number, shards)
            taken.append(time.process_time() - began)
    return taken


def fields(model: Path, source: Path, rows: int) -> dict[str, object]:
    lines = [f"What is {number}?,It is {number}." for number in range(rows + 2)]
    source.write_text("\n".join(["question,answer", *lines]), encoding="utf-8")
    return {
        "model": {"source": str(model)},
        "data": {"source": str(source), "split": {"method": "shuffle", "test_size": rows}},
        "generate": {"adapter": "none", "max_new_tokens": 16, "chunk_rows": CHUNK_ROWS},
    }


def main() -> None:
    from tests.support.tiny import tiny_llama

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--rows", type=int, default=1024)
    asked = parser.parse_args()
    print("| shards | longest, s | rows a second of all | by one shard's rate |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_llama(Path(folder))
        seconds_of_shards(model, CHUNK_ROWS, 1)  # imports, threads
        first = None
        for number in asked.numbers:
            longest = max(seconds_of_shards(model, asked.rows, number))
            rate = asked.rows / longest
            first = first or rate
            print(f"| {number} | {longest:.2f} | {rate:,.0f} | {rate / first:.1f} |", flush=True)


if __name__ == "__main__":
    main()
