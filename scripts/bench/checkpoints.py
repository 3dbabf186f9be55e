"""Measure what checkpoints cost, and what a kill costs.

    python scripts/bench/checkpoints.py [--steps 60] [--repeats 3] [--kills 7]

The demo's model and rows (`make demo` makes both), two trainings in turn: with a checkpoint each 20
steps and with one at the end alone, which both have. Then one that is killed by SIGKILL after its
first checkpoint and started again, some times: how long until it goes on from there. That, and the
time since the checkpoint, is what the kill costs. The store is a folder of this machine.
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
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def trained(store: Path, run: str, steps: int, save_steps: int) -> dict[str, float]:
    """Train from the start to the end."""
    _ended(start("preprocess", store, run, steps, save_steps))
    began = time.monotonic()
    _ended(start("train", store, run, steps, save_steps))
    return {"seconds": time.monotonic() - began, **_counted(store, run)}


def killed(store: Path, run: str, kills: int) -> list[float]:
    """Train to a checkpoint, then be killed and start again; return the seconds of each start."""
    _ended(start("preprocess", store, run, EVERY * 2, EVERY))
    process = start("train", store, run, EVERY * 2, EVERY)
    head = store / "runs" / run / "train" / "checkpoints"
    while not any(head.glob("step-*/*/checkpoint.json")):
        time.sleep(0.05)
    seconds = []
    for _ in range(kills):
        process.kill()
        process.wait()
        began = time.monotonic()
        process = start("train", store, run, EVERY * 2, EVERY)
        assert process.stdout
        while b"going on from a checkpoint" not in (line := process.stdout.readline()):
            if not line:
                raise SystemExit("it did not go on from its checkpoint")
        seconds.append(time.monotonic() - began)
    process.kill()
    process.wait()
    return seconds


def _ended(process: subprocess.Popen[bytes]) -> None:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args}: {said.decode()}; run make demo first")


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
    parser.add_argument("--kills", type=int, default=7)
    asked = parser.parse_args()
    often, once = [], []
    with tempfile.TemporaryDirectory(prefix="qatune-bench-") as name:
        store = Path(name)
        for turn in range(asked.repeats):
            often.append(trained(store, f"often-{turn}", asked.steps, EVERY))
            once.append(trained(store, f"once-{turn}", asked.steps, asked.steps))
            print(json.dumps({"often": often[-1], "once": once[-1]}), flush=True)
        starts = killed(store, "killed", asked.kills)
    ratios = [
        one["training"] / other["training"] - 1 for one, other in zip(often, once, strict=True)
    ]
    waits = [one["waited"] / one["training"] for one in often]
    print(f"every {EVERY} steps: waiting {statistics.median(waits):.2%} of training (median)")
    print(f"training longer than with one checkpoint: {', '.join(f'{r:+.2%}' for r in ratios)}")
    print(
        f"start after a kill: median {statistics.median(starts):.1f} s, "
        f"{min(starts):.1f} to {max(starts):.1f} s in {len(starts)}"
    )


if __name__ == "__main__":
    main()
