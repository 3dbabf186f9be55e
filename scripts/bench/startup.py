"""Time what a user waits for before anything happens: `qatune --help` and a second run.

Usage: python scripts/bench/startup.py [ROUNDS]
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

QATUNE = Path(sys.executable).with_name("qatune")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    taken = [seconds([str(QATUNE), "--help"]) for _ in range(rounds)]
    print(
        f"qatune --help: median {statistics.median(taken):.3f} s, "
        f"{min(taken):.3f} to {max(taken):.3f} s in {rounds} runs"
    )


if __name__ == "__main__":
    main()
