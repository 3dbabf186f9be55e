"""Run qatune by its own commands, and print what its manifests count as one JSON line.

    python scripts/bench/product.py training|generation|preprocess RECIPE [--prepared STORE]

The store is a temporary folder; `generation` works on a copy of a store in which the run's rows and
adapter lie already. Training's seconds are those of its steps; those of generation hold the scoring
of expected answers where the questions have some. Loading is left out of all.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pyarrow import parquet

QATUNE = Path(sys.executable).with_name("qatune")
RUN = "bench"
Figures = dict[str, Any]


def stage(name: str, recipe: Path, store: Path) -> Figures:
    """Run a stage; return its manifest."""
    command = [QATUNE, name, "--run", RUN, "--store", store, "--recipe", recipe]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"qatune {name}: exit code {done.returncode}: {done.stderr[-2000:]}")
    manifest: Figures = json.loads((folder(store, name) / "manifest.json").read_text())
    return manifest


def folder(store: Path, name: str) -> Path:
    return store / "runs" / RUN / name


def rows(store: Path, side: str, columns: list[str]) -> list[dict[str, Any]]:
    """Return columns of the rows of one side of the split, `train` or `test`."""
    files = sorted(folder(store, "preprocess").glob(f"{side}-*.parquet"))
    return [row for file in files for row in parquet.read_table(file, columns=columns).to_pylist()]


def training(recipe: Path, store: Path) -> Figures:
    stage("preprocess", recipe, store)
    counted = stage("train", recipe, store)["counters"]
    return {
        "seconds": counted["tokens"] / counted["tokens_per_second"],
        "tokens": counted["tokens"],
        "tokens_per_second": counted["tokens_per_second"],
        "steps": counted["steps"],
        "loss": counted["train_loss"],
    }


def generation(recipe: Path, store: Path) -> Figures:
    manifest = stage("generate", recipe, store)
    counted, certificates = manifest["counters"], manifest["certificates"]
    seconds = counted["rows"] / counted["prompts_per_second"]
    answers = {}
    for part in sorted((folder(store, "generate") / "parts").glob("*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            answers[row["id"]] = [row["base"]["text"], row["adapter"]["text"]]
    return {
        "seconds": seconds,
        "tokens": counted["base_tokens"] + counted["adapter_tokens"],
        "answers_per_second": 2 * counted["rows"] / seconds,
        "certified": sum(each["rows_equal"] for each in certificates if each["passed"]),
        "answers": answers,
    }


def preprocess(recipe: Path, store: Path) -> Figures:
    manifest = stage("preprocess", recipe, store)
    read = manifest["counters"]["rows_read"]
    seconds = manifest["seconds"]["working"] + manifest["seconds"]["saving"]
    return {"seconds": seconds, "rows": read, "rows_per_second": read / seconds}


WHAT = {"training": training, "generation": generation, "preprocess": preprocess}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--prepared", type=Path, help="a store to start from")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qatune-bench-") as name:
        store = Path(name) / "store"
        if asked.prepared:
            shutil.copytree(asked.prepared, store)
        figures = WHAT[asked.what](asked.recipe, store)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
