"""Measure `qatune verify` on a run of about 1 GiB, as a user starts it.

    python scripts/bench/verify.py [--scale 1.0] [--repeats 3]

The run has real manifests and made-up contents: rows in Parquet, a model in the store, an adapter
and a checkpoint, answers in parts of 64 rows. Each stage's time is from the line before to its own;
that of preprocess holds the start of Python. Cold means that the files were dropped from memory
before; what `sha256sum` takes for the same files then is what the disk allows. On a machine that
others use, too, the rate by CPU seconds is the steadier one.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qatune import config
from qatune.data import answers, parts
from qatune.data.records import ROWS, Answer, AnsweredRow
from qatune.data.shards import Shard
from qatune.store import checkpoints, mirror, shard_records, shards
from qatune.store.artifacts import StageRun
from qatune.store.folder import FolderStore

QATUNE = Path(sys.executable).with_name("qatune")
RUN, REPO, COMMIT = "bench", "team/model", "c" * 40
TRAIN_ROWS, TEST_ROWS, SHARDS = 270_000, 160_000, 4
WORDS = [f"{head}{tail}" for head in ("list", "return", "value", "of") for tail in range(500)]

Figures = dict[str, tuple[float, float]]
"""Megabytes and seconds of each stage."""


class Texts:
    """Texts that compress as prose does."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._pool = " ".join(self._random.choices(WORDS, k=200_000))

    def text(self, size: int) -> str:
        start = self._random.randrange(len(self._pool) - size)
        return self._pool[start : start + size]


def make(store: FolderStore, scratch: Path, scale: float) -> None:
    ours = config.Recipe(
        model=config.Model(source=REPO, revision=COMMIT), data=config.Data(source="rows.csv")
    )
    train, test = int(TRAIN_ROWS * scale), int(TEST_ROWS * scale)
    _preprocess(StageRun.open(store, RUN, "preprocess", ours), train, test, scratch)
    _train(StageRun.open(store, RUN, "train", ours), scratch, scale)
    _generate(StageRun.open(store, RUN, "generate", ours), train, test)
    stage = StageRun.open(store, RUN, "evaluate", ours)
    stage.create("metrics.json", json.dumps({"rows": test, "errors": 0}).encode())
    stage.create("report.html", b"<html>" * 100_000)
    stage.counters = {"rows": test, "errors": 0}
    stage.finish()


def _preprocess(stage: StageRun, train: int, test: int, scratch: Path) -> None:
    with parts.spool_writer(scratch / "spool") as spool:
        for batch in _rows(train + test):
            spool.write_batch(batch)
    held_out = np.arange(train + test) >= train
    for path in parts.divide(scratch / "spool", held_out, scratch):
        stage.create(path.name, path)
    stage.create("rejected.jsonl", b'{"file": "rows.csv", "row": 0, "reason": "null"}\n' * 1000)
    rows = train + test
    stage.counters = {"rows_read": rows + 1000, "rows_kept": rows, "rejected_null": 1000}
    stage.counters |= {"rows_train": train, "rows_test": test}
    stage.finish()


def _rows(count: int) -> Iterator[pa.RecordBatch]:
    texts, numbers = Texts(), np.random.default_rng(1)
    for start in range(1, count + 1, 1000):
        rows = [
            {
                "id": str(number), "file": "rows.csv", "row": number, "question": texts.text(120),
                "answer": texts.text(700), "answer_start": 30,
                "input_ids": numbers.integers(0, 50_000, 200),
            }
            for number in range(start, min(start + 1000, count + 1))
        ]  # fmt: skip
        yield from pa.Table.from_pylist(rows, ROWS).combine_chunks().to_batches()


def _train(stage: StageRun, scratch: Path, scale: float) -> None:
    folder = scratch / "model"
    model = _file(folder / "model.safetensors", 270e6 * scale)
    stage.used(mirror.make(stage.store, REPO, COMMIT, [model]).refs)
    adapter = _file(scratch / "saved/adapter_model.safetensors", 45e6 * scale)
    _file(scratch / "saved/optimizer.pt", 90e6 * scale)
    checkpoints.save(stage.store, stage.key("checkpoints/"), 100, adapter.parent, "bench")
    stage.create("adapter/adapter_model.safetensors", adapter)
    stage.create("adapter/adapter_config.json", b"{}")
    steps = ({"step": step, "loss": 1.0} for step in range(1, 1001))
    stage.create("metrics.jsonl", "".join(json.dumps(step) + "\n" for step in steps).encode())
    stage.counters = {"steps": 1000}
    stage.finish()


def _file(path: Path, size: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.random.default_rng(1).bytes(int(size)))
    return path


def _generate(stage: StageRun, before: int, rows: int) -> None:
    layout, texts = shards.Layout(rows, stage.recipe.generate.chunk_rows), Texts()
    shards.divide(stage, SHARDS, layout)
    for number in range(SHARDS):
        shard, work = Shard(number, SHARDS), stage.anew()
        for chunk in layout.chunks_of(shard):
            ids = (str(before + row + 1) for row in layout.rows_of_chunk(chunk))
            lines = [_answered(name, texts) for name in ids]
            # Not StageRun.create, which waits for the disk each time.
            path = Path(stage.store.uri) / stage.key(shard.part(chunk))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(answers.encode(lines))
            work.adopt(shard.part(chunk))
        done = layout.rows_of(layout.chunks_of(shard))
        work.counters = {"rows": done, "answers": done, "errors": 0}
        shard_records.save_record(work, shard)
    records = shard_records.load_records(stage, SHARDS)
    stage.complete(shard_records.merged(stage.manifest(), records))


def _answered(name: str, texts: Texts) -> AnsweredRow:
    made = [Answer(texts.text(250), 60, "stop", 2.25) for _ in range(2)]
    return AnsweredRow(name, texts.text(120), texts.text(500), 120, 30, *made)


def verified(store: FolderStore) -> Figures:
    """Run the command; time its lines."""
    figures: Figures = {}
    before = _cpu()
    last = start = time.perf_counter()
    command = [QATUNE, "verify", RUN, "--store", store.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            now, (stage, _, rest) = time.perf_counter(), line.partition(": ")
            size = float(rest.split(" MB", 1)[0].rsplit(" ", 1)[-1].replace(",", ""))
            figures[stage if " " not in stage else "all"] = (size, now - last)
            last = now
    assert process.returncode == 0
    size = figures["all"][0]
    return figures | {
        "all": (size, time.perf_counter() - start),
        "all by CPU": (size, _cpu() - before),
    }


def _cpu() -> float:
    """Return the CPU seconds of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def drop(folder: Path) -> None:
    """Let the system forget what it holds of these files in memory."""
    os.sync()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk(folder: Path) -> tuple[float, float]:
    """Let another program read and hash the same files."""
    drop(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    start = time.perf_counter()
    for first in range(0, len(files), 500):
        command = ["sha256sum", *files[first : first + 500]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sum(path.stat().st_size for path in files) / 1e6, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        store = FolderStore(str(folder))
        with tempfile.TemporaryDirectory(dir=name) as scratch:
            make(store, Path(scratch), options.scale)
        for kind in ("cold", "warm") * options.repeats:
            if kind == "cold":
                drop(folder)
            for stage, (size, seconds) in verified(store).items():
                print(f"{kind} {stage:<12} {size:>8,.1f} MB {seconds:>7.2f} s")
                rates.setdefault(f"{stage}, {kind}", []).append(size / seconds)
        for _ in range(options.repeats):
            size, seconds = disk(folder)
            rates.setdefault("sha256sum, cold", []).append(size / seconds)
    figures: dict[str, Any] = {what: statistics.median(found) for what, found in rates.items()}
    for what, rate in figures.items():
        print(f"{what:<24} {rate:>9,.1f} MB/s")
    print(json.dumps({what: round(rate, 1) for what, rate in figures.items()}))


if __name__ == "__main__":
    main()
