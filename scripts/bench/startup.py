"""Time what a user waits for before anything happens.

    python scripts/bench/startup.py [--repeats 5] [--model FOLDER] [--quantization none]

First `qatune --help`. Then a training up to the end of its first step, by part, each start in a
process of its own: imports, fetch (find the model and hash its files), load (rows and weights),
first step (with the adapter, the trainer and the held-out loss before it). At last the whole of
`qatune train` with two steps. By the clock, and in CPU seconds, which tell more on a busy machine.
FOLDER is a model; without it a tiny one is made, so that what is left are imports.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

QATUNE = Path(sys.executable).with_name("qatune")
PARTS = ("imports", "fetch", "load", "first step")
MARKED = """
import json, sys, time

def now():
    return time.monotonic(), time.process_time()

marks = [now()]

def marking(module, name):
    work = getattr(module, name)
    def marked(*given, **named):
        result = work(*given, **named)
        marks.append(now())
        return result
    setattr(module, name, marked)

from qatune.store import artifacts
from qatune.store.opening import open_store
from qatune.importing import import_stage

store, run = open_store(sys.argv[1]), sys.argv[2]
stage = artifacts.StageRun.open(store, run, "train", artifacts.bound_recipe(store, run))
train = import_stage("train")
marks.append(now())
marking(train.sources, "check_tokenizer")
marking(train, "load_model")
marking(train.Recorder, "on_step_end")
train.run(stage)
ends = zip(marks, marks[1:5])
print(json.dumps([[after - before for before, after in zip(*end)] for end in ends]))
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def ready(store: Path, run: str, recipe: Path) -> None:
    """Do what comes before training."""
    subprocess.run(
        [QATUNE, "preprocess", "--run", run, "--store", store, "--recipe", recipe],
        check=True, capture_output=True,
    )  # fmt: skip


def by_part(store: Path, run: str) -> dict[str, float]:
    command = [sys.executable, "-c", MARKED, str(store), run]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = {}
    for part, (clock, cpu) in zip(PARTS, json.loads(done.stdout.splitlines()[-1]), strict=True):
        found |= {part: clock, f"{part}, CPU": cpu}
    return found


def whole(store: Path, run: str) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    seconds([str(QATUNE), "train", "--run", run, "--store", str(store)])
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"qatune train, by the clock": took, "qatune train, CPU": cpu}


def show(name: str, taken: list[float]) -> None:
    middle, least, most = statistics.median(taken), min(taken), max(taken)
    print(f"{name:28} {middle:7.3f} s   {least:.3f} to {most:.3f} s in {len(taken)} runs")


def repeated(
    measure: Callable[[Path, str], dict[str, float]], folder: Path, recipe: Path, repeats: int
) -> None:
    """Measure with as many runs, each of them new."""
    found = []
    for number in range(repeats):
        run = f"{measure.__name__.replace('_', '-')}-{number}"
        ready(folder / "store", run, recipe)
        found.append(measure(folder / "store", run))
    for part in found[0]:
        show(part, [each[part] for each in found])


def recipe_for(model: Path, quantization: str, folder: Path) -> Path:
    """Write some questions, and the recipe of two steps on them."""
    rows = "".join(f"What is {number}?,It is {number}.\n" for number in range(40))
    (folder / "rows.csv").write_text("question,answer\n" + rows)
    train = {"max_steps": 2, "per_device_train_batch_size": 4}
    recipe: dict[str, Any] = {
        "model": {"source": str(model), "quantization": quantization},
        "data": {"source": str(folder / "rows.csv"), "max_length": 100, "split": {"test_size": 8}},
        "train": train | {"lora": {"target_modules": "all-linear"}},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"recipe": recipe}))  # which is YAML, too
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--quantization", default="none")
    given = parser.parse_args()
    show("qatune --help", [seconds([str(QATUNE), "--help"]) for _ in range(given.repeats)])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # waiting threads would count as CPU seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = given.model or _tiny(folder / "model")
        recipe = recipe_for(model, given.quantization, folder)
        for measure in (by_part, whole):
            repeated(measure, folder, recipe, given.repeats)


def _tiny(folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.support.tiny import tiny_llama

    return tiny_llama(folder)


if __name__ == "__main__":
    main()
