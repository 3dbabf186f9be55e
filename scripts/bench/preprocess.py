"""Measure preprocess against the tokenizer alone, and its memory against a 100-times smaller file.

    python scripts/bench/preprocess.py [--rows 136108] [--repeats 3]

Each measurement is a process of its own; product and tokenizer take turns. The tokenizer alone
gets the same texts in the same batches, already in memory. Loading it is left out of both. On a
machine that others use, too, the share by CPU seconds is steadier than the one by wall clock.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "jobs"), str(ROOT / "scripts")]


def product(file: Path, model: Path) -> dict[str, float]:
    """Run the stage on `file` into a store in a temporary folder."""
    from qatune import recipe
    from qatune.stages import preprocess
    from qatune.store.artifacts import StageRun
    from qatune.store.opening import open_store

    fields = {"model": {"source": str(model)}, "data": {"source": str(file)}}
    with tempfile.TemporaryDirectory() as folder:
        stage = StageRun.open(open_store(folder), "bench", "preprocess", recipe.validate(fields))
        start, cpu = time.perf_counter(), time.process_time()
        preprocess.run(stage)
        seconds = time.perf_counter() - start - stage.seconds["loading"]
        cpu = time.process_time() - cpu - stage.seconds["loading"]
    return {"seconds": seconds, "cpu": cpu, "rows": float(stage.counters["rows_read"] or 0)}


def tokenizer_alone(file: Path, model: Path) -> dict[str, float]:
    """Encode the prompts and completions of `file`, in the batches of the stage."""
    from qatune.config import Columns, Data
    from qatune.data.prompts import Template
    from qatune.data.readers import read_rows
    from qatune.data.records import SourceRow
    from qatune.data.selection import batched
    from qatune.model.tokenizing import RowTokenizer, all_cores, load_tokenizer

    template, tokenizer = Template.of(Data(source="-")), RowTokenizer(load_tokenizer(model))
    with file.open("rb") as raw:
        batches = [
            [row for row in batch if isinstance(row, SourceRow)]
            for batch in batched(read_rows(raw, file.name, file.name, Columns()))
        ]
    texts = [
        (
            [template.prompt(row.question) for row in batch],
            [template.completion(row.answer) for row in batch],
        )
        for batch in batches
    ]
    with all_cores():
        start, cpu = time.perf_counter(), time.process_time()
        for prompts, completions in texts:
            tokenizer.encode(prompts, completions)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "rows": float(sum(map(len, batches)))}


WHAT = {"product": product, "tokenizer alone": tokenizer_alone}


def measured(what: str, file: Path, model: Path) -> dict[str, float]:
    """Run one measurement in a fresh process; add its peak memory in MB and its MB/s."""
    command = [sys.executable, __file__, "--only", what, str(file), str(model)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    figures["mb_per_second"] = file.stat().st_size / 1e6 / figures["seconds"]
    return figures


def compare(folder: Path, rows: int, repeats: int) -> dict[str, float]:
    from tests.support.tiny import tiny_gpt2

    import make_reference_csv

    model = tiny_gpt2(folder / "gpt2")
    large, small = folder / "large.csv", folder / "small.csv"
    for file, size in ((large, rows), (small, rows // 100)):
        make_reference_csv.write(file, usable=size, short=size // 5, nulls=size // 90)
    runs: dict[str, list[dict[str, float]]] = {what: [] for what in WHAT}
    for _ in range(repeats):
        for what, found in runs.items():
            found.append(measured(what, large, model))
    rates = {
        what: statistics.median(run["mb_per_second"] for run in found)
        for what, found in runs.items()
    }
    cpu = {what: statistics.median(run["cpu"] for run in found) for what, found in runs.items()}
    peak = max(run["peak_mb"] for run in runs["product"])
    peak_small = measured("product", small, model)["peak_mb"]
    return {
        "file_mb": large.stat().st_size / 1e6,
        "rows": runs["product"][0]["rows"],
        "product_mb_per_second": rates["product"],
        "tokenizer_mb_per_second": rates["tokenizer alone"],
        "share_of_tokenizer": rates["product"] / rates["tokenizer alone"],
        "share_by_cpu_seconds": cpu["tokenizer alone"] / cpu["product"],
        "peak_mb": peak,
        "peak_mb_100_times_smaller": peak_small,
        "peak_mb_difference": peak - peak_small,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=136_108)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        what, file, model = options.only
        figures = WHAT[what](Path(file), Path(model))
        figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(Path(folder), options.rows, options.repeats)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<28} {value:>12,.2f}")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
