"""Measure how preprocess grows with the rows: seconds, and memory.

    python scripts/bench/growth.py [--model FOLDER] [1000 10000 100000 1000000]

Each size is a run of the command by itself, on short rows (about 90 characters): what grows with
the rows shows soonest. The slopes are those between the two largest sizes. CPU seconds are those of
the whole command: where other work shares the machine, they tell more than the clock.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

from harness import Contestant, Figures, measured

PRODUCT = Path(__file__).with_name("product.py")
MODEL = Path("~/.cache/qatune/models/smollm2-135m-instruct").expanduser()


def write_rows(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        for number in range(rows):
            question = f"How many items has list number {number}, after sorting?"
            writer.writerow([question, f"It has {number % 1000} items; sorting keeps all."])


def grown(model: Path, rows: int) -> Figures:
    """Preprocess so many rows; return seconds without loading, CPU seconds, and the peak in MB."""
    with tempfile.TemporaryDirectory(prefix="qatune-bench-") as name:
        source, recipe = Path(name) / "rows.csv", Path(name) / "recipe.yaml"
        write_rows(source, rows)
        fields = {"model": {"source": str(model)}, "data": {"source": str(source)}}
        recipe.write_text(json.dumps({"recipe": fields}))
        figures = measured(Contestant("qatune", [str(PRODUCT), "preprocess", str(recipe)]))
    return {name: figures[name] for name in ("rows", "seconds", "cpu_seconds", "peak_mb")}


def slope(smaller: Figures, larger: Figures, figure: str) -> float:
    """Return what one more row takes of a figure."""
    return float((larger[figure] - smaller[figure]) / (larger["rows"] - smaller["rows"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", nargs="*", type=int, default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--model", type=Path, default=MODEL)
    asked = parser.parse_args()
    print("| rows | seconds | rows/s | CPU seconds | largest process, MB |\n" + "| --- " * 5 + "|")
    found = []
    for size in asked.sizes:
        found.append(grown(asked.model, size))
        rows, seconds, cpu, peak = found[-1].values()
        print(
            f"| {rows:,} | {seconds:.1f} | {rows / seconds:,.0f} | {cpu:,.1f} | {peak:,.0f} |",
            flush=True,
        )
    if len(found) > 1:
        time, cpu, memory = (
            slope(*found[-2:], figure) for figure in ("seconds", "cpu_seconds", "peak_mb")
        )
        print(
            f"\nOne more row: {time * 1e6:.0f} microseconds, {cpu * 1e6:.0f} of CPU, "
            f"{memory * 2**20:.0f} bytes"
        )


if __name__ == "__main__":
    main()
