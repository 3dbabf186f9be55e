"""Measure what checkpoints cost, and what a kill costs.

    python scripts/bench/checkpoints.py [--steps 60] [--repeats 3]

The demo's model and rows (`make demo` makes both), two trainings in turn: with a checkpoint each 20
steps and with one at the end alone, which both have. Then one that is killed by SIGKILL some steps
after a checkpoint, and started again: what it takes longer than one left alone, less the time since
its last checkpoint, is what the new start costs. The store is a folder of this machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QATUNE = Path(sys.executable).with_name("qatune")
EVERY = 20


def start(
    stage: str, store: Path, run: str, steps: int, save_steps: int
) -> subprocess.Popen[bytes]:
    """Start a stage of the demo by the command line."""
    settings = {"max_steps": steps, "save_steps": save_steps, "eval_steps": steps}
    sets = [part for name, value in settings.items() for part in ("--set", f"train.{name}={value}")]
    command = [QATUNE, stage, "--run", run, "--store", store, "--recipe", "demo", *sets]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def trained(store: Path, run: str, steps: int, save_steps: int) -> dict[str, float]:
    """Train from the start to the end."""
    _ended(start("preprocess", store, run, steps, save_steps))
    began = time.monotonic()
    _ended(start("train", store, run, steps, save_steps))
    return {"seconds": time.monotonic() - began, **_counted(store, run)}


def killed(store: Path, run: str, steps: int) -> dict[str, float]:
    """Train, be killed some steps after the first checkpoint, and train on."""
    _ended(start("preprocess", store, run, steps, EVERY))
    began = time.monotonic()
    process = start("train", store, run, steps, EVERY)
    head = store / "runs" / run / "train" / "checkpoints"
    while not any(head.glob("step-*/*/checkpoint.json")):
        time.sleep(0.05)
    saved = time.monotonic()
    time.sleep((saved - began) / 4)  # some steps of the next twenty
    process.kill()
    process.wait()
    since = time.monotonic() - saved
    _ended(start("train", store, run, steps, EVERY))
    return {"seconds": time.monotonic() - began, "since": since}


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"{process.args}: ended with {process.returncode}; run make demo first")


def _counted(store: Path, run: str) -> dict[str, float]:
    """Return the seconds that steps took, and of these the ones that checkpoints took."""
    manifest = json.loads((store / "runs" / run / "train" / "manifest.json").read_text())
    counters = manifest["counters"]
    rows = counters["steps"] * 8
    return {
        "training": rows / counters["samples_per_second"],
        "waited": counters["checkpoint_wait_seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    often, once, lost = [], [], []
    with tempfile.TemporaryDirectory(prefix="qatune-bench-") as name:
        store = Path(name)
        for turn in range(asked.repeats):
            often.append(trained(store, f"often-{turn}", asked.steps, EVERY))
            once.append(trained(store, f"once-{turn}", asked.steps, asked.steps))
            lost.append(killed(store, f"killed-{turn}", asked.steps))
            extra = lost[-1]["seconds"] - often[-1]["seconds"]
            print(json.dumps({"often": often[-1], "once": once[-1], "killed": lost[-1]}))
            print(f"lost {extra:.1f} s, {lost[-1]['since']:.1f} s of it since the checkpoint")
    ratios = [
        one["training"] / other["training"] - 1 for one, other in zip(often, once, strict=True)
    ]
    waits = [one["waited"] / one["training"] for one in often]
    starts = [
        gone["seconds"] - one["seconds"] - gone["since"]
        for gone, one in zip(lost, often, strict=True)
    ]
    print(f"every {EVERY} steps: waiting {statistics.median(waits):.2%} of training (median)")
    print(f"training longer than with one checkpoint: {', '.join(f'{r:+.2%}' for r in ratios)}")
    costs = ", ".join(f"{seconds:.1f} s" for seconds in starts)
    print(f"a kill costs beyond the time since its checkpoint: {costs}")


if __name__ == "__main__":
    main()
