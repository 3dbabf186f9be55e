"""Measure how long evaluate takes: measures, statistics with 10,000 resamples, the page.

    python scripts/bench/evaluation.py [--rows 5000] [--training-rows 20000]

Rows are functions of Python's standard library: the expected answer is a function's source, the
adapter's answer is that with some words changed, the base's another function. Prints the seconds of
the whole command by itself, the manifest's seconds, the verdict, and the size of the page.
"""

import argparse
import ast
import json
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from qatune.config import Data, Model, Recipe
from qatune.data.records import Answer, AnsweredRow
from qatune.data.shards import Shard
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.folder import FolderStore

RUN = "bench"
LONGEST = 1500
FINISHED = 0.8
"""Share of the answers."""
CHUNK = 64


def functions() -> Iterator[tuple[str, str]]:
    """Yield a question and the source of each function that is short enough."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
        lines = text.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                if len(source) <= LONGEST:
                    yield f"Write the function {node.name} of {path.stem}.", source


def changed(text: str, made: random.Random, share: float) -> str:
    words = text.split(" ")
    return " ".join(made.choice(words) if made.random() < share else word for word in words)


def answered(rows: int) -> Iterator[AnsweredRow]:
    made, known = random.Random(5), list(functions())
    for number in range(rows):
        question, expected = made.choice(known)
        loss = made.gauss(1.5, 0.4)
        finish = "stop" if made.random() < FINISHED else "length"
        sides = [(made.choice(known)[1], loss), (changed(expected, made, 0.3), loss - 0.1)]
        base, adapter = (
            Answer(text, len(text) // 4 + 1, finish, made.gauss(nll, 0.2)) for text, nll in sides
        )
        yield AnsweredRow(
            str(number), question, expected, len(expected) // 4 + 1, 20, base, adapter
        )


def write_run(store: FolderStore, rows: int, training_rows: int) -> None:
    """Complete preprocess and generate without a model."""
    recipe = Recipe(model=Model(source="-"), data=Data(source="-"))
    preprocess = StageRun.open(store, RUN, "preprocess", recipe)
    made, known = random.Random(6), list(functions())
    chosen = [made.choice(known) for _ in range(training_rows)]
    columns = {
        "id": [f"t{number}" for number in range(training_rows)],
        "question": [question for question, _ in chosen],
        "answer": [changed(answer, made, 0.02) for _, answer in chosen],
    }
    file = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), file)
    preprocess.create("train-00000.parquet", file.getvalue().to_pybytes())
    preprocess.counters = {"rows_train": training_rows}
    preprocess.finish()
    StageRun.open(store, RUN, "train", recipe).finish()
    generate = StageRun.open(store, RUN, "generate", recipe)
    lines = [json.dumps(asdict(row)) + "\n" for row in answered(rows)]
    for number, at in enumerate(range(0, rows, CHUNK)):
        generate.create(Shard().part(number), "".join(lines[at : at + CHUNK]).encode())
    generate.counters = {"rows": rows, "answers": rows, "errors": 0}
    generate.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--training-rows", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qatune-bench-") as folder:
        store = FolderStore(folder)
        write_run(store, options.rows, options.training_rows)
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "qatune", "evaluate", "--run", RUN, "--store", folder]
        subprocess.run(command, check=True)
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found = manifests.load(store, RUN, "evaluate")
        assert found
        page = store.stat(f"runs/{RUN}/evaluate/report.html")
        assert page
        metrics = json.loads(store.read(f"runs/{RUN}/evaluate/metrics.json"))
        print(f"{options.rows:,} rows, {options.training_rows:,} training rows: {took:.1f} s")
        print(f"CPU {cpu:.1f} s, largest resident set {after.ru_maxrss / 1024:.0f} MB")
        print(f"seconds: {dict(found[0].seconds)}; report.html {page.size / 1e6:.1f} MB")
        print(metrics["verdict"]["sentence"])


if __name__ == "__main__":
    main()
