"""Measure preprocess against the tokenizer alone, and its memory against a 100-times smaller file.

    python scripts/bench/preprocess.py [--rows 136108] [--repeats 3]

Each measurement is a process of its own; product and tokenizer take turns. The tokenizer alone
gets the same texts in the same batches, already in memory: once as the library does it, each batch
spread over its threads, and once as the product does it, a batch to each thread. Loading it is left
out of all. On a machine that others use, too, the share by CPU seconds is steadier than the one by
wall clock.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "jobs"), str(ROOT / "scripts")]

Texts = list[tuple[list[str], list[str]]]
"""Prompts and completions, batch by batch."""


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


def library_threads(file: Path, model: Path) -> dict[str, float]:
    """Encode the texts of `file` a batch at a time, each on all cores by the library's threads."""
    from qatune.model.tokenizing import RowTokenizer, load_tokenizer

    tokenizer, texts = RowTokenizer(load_tokenizer(model)), _texts(file)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    return _timed(texts, (tokenizer.encode(*pair) for pair in texts))


def batch_threads(file: Path, model: Path) -> dict[str, float]:
    """Encode the texts of `file` with a batch to each thread, as the stage does."""
    from qatune.data.ahead import mapped_ahead
    from qatune.model.tokenizing import RowTokenizer, load_tokenizer

    tokenizer, texts = RowTokenizer(load_tokenizer(model)), _texts(file)
    return _timed(texts, mapped_ahead(lambda pair: tokenizer.encode(*pair), texts))


def _timed(texts: Texts, encoded: Iterable[object]) -> dict[str, float]:
    start, cpu = time.perf_counter(), time.process_time()
    for _ in encoded:
        pass
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "rows": float(sum(len(pair[0]) for pair in texts))}


def _texts(file: Path) -> Texts:
    """Return the prompts and completions of `file`, in the batches of the stage."""
    from qatune.config import Columns, Data
    from qatune.data.prompts import Template
    from qatune.data.readers import read_rows
    from qatune.data.records import SourceRow
    from qatune.data.selection import batched

    template, texts = Template.of(Data(source="-")), []
    with file.open("rb") as raw:
        for batch in batched(read_rows(raw, file.name, file.name, Columns())):
            rows = [row for row in batch if isinstance(row, SourceRow)]
            prompts = [template.prompt(row.question) for row in rows]
            texts.append((prompts, [template.completion(row.answer) for row in rows]))
    return texts


WHAT = {"product": product, "library threads": library_threads, "batch threads": batch_threads}


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

    model = tiny_gpt2(folder / "gpt2", positions=1024)
    large, small = folder / "large.csv", folder / "small.csv"
    for file, size in ((large, rows), (small, rows // 100)):
        make_reference_csv.write(file, usable=size, short=size // 5, nulls=size // 90)
    runs: dict[str, list[dict[str, float]]] = {what: [] for what in WHAT}
    for _ in range(repeats):
        for what, found in runs.items():
            found.append(measured(what, large, model))

    def median(figure: str, what: str) -> float:
        return statistics.median(run[figure] for run in runs[what])

    rates = {what: median("mb_per_second", what) for what in WHAT}
    peak = max(run["peak_mb"] for run in runs["product"])
    peak_small = measured("product", small, model)["peak_mb"]
    return {
        "file_mb": large.stat().st_size / 1e6,
        "rows": runs["product"][0]["rows"],
        "product_mb_per_second": rates["product"],
        "tokenizer_mb_per_second_library_threads": rates["library threads"],
        "tokenizer_mb_per_second_batch_threads": rates["batch threads"],
        "share_of_library_threads": rates["product"] / rates["library threads"],
        "share_of_batch_threads": rates["product"] / rates["batch threads"],
        "share_by_cpu_seconds": median("cpu", "library threads") / median("cpu", "product"),
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
        print(f"{name.replace('_', ' '):<40} {value:>12,.2f}")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
