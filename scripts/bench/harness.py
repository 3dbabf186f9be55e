"""Contestants take turns on one machine, each time in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
"""What one process measured: the JSON object in the last line of its output."""
Runs = dict[str, list[Figures]]
"""Of each contestant, one entry a round."""


@dataclass(frozen=True)
class Contestant:
    name: str
    command: Sequence[str]
    """Arguments of Python; the process prints its figures as its last line."""
    against: str | None = None
    """The contestant that is to be compared with this one: the product."""


@dataclass(frozen=True)
class Part:
    """One comparison."""

    name: str
    setting: str
    """What all of it share, in a sentence."""
    rate: str
    """The figure that is compared; more is better."""
    shown: Sequence[str]
    """Further figures of the table."""
    contestants: Sequence[Contestant]
    finish: Callable[[Runs], None] = lambda _: None
    """Adds figures that follow from several contestants' ones."""


def race(part: Part, rounds: int) -> Runs:
    """Run each contestant once a round, in every second round in the opposite order."""
    runs: Runs = {each.name: [] for each in part.contestants}
    for turn in range(rounds):
        for each in part.contestants[:: -1 if turn % 2 else 1]:
            figures = measured(each)
            runs[each.name].append(figures)
            said = f"{figures[part.rate]:,.2f} {part.rate}" if part.rate in figures else "done"
            print(f"{part.name} {turn + 1}/{rounds} {each.name}: {said}", file=sys.stderr)
    part.finish(runs)
    return runs


def measured(contestant: Contestant) -> Figures:
    """Run it; `peak_mb` is the largest resident set of any one of its processes.

    `cpu_seconds` are those of all of them, their start and loading included.
    """
    command = [sys.executable, *contestant.command]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{said[-3000:]}")
    figures: Figures = json.loads(said.splitlines()[-1])
    spent = {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}
    return figures | spent


def summary(part: Part, runs: Runs) -> dict[str, Figures]:
    """Return medians, the spread of the rate, and the product's rate by the contestant's.

    The ratio is the median over the rounds: what else the machine does changes both of a round.
    """
    return {each.name: _summarized(part, each, runs) for each in part.contestants}


def _summarized(part: Part, contestant: Contestant, runs: Runs) -> Figures:
    mine = runs[contestant.name]
    figures = {name: statistics.median(run[name] for run in mine) for name in _numbers(mine[0])}
    if part.rate in figures:
        rates = [run[part.rate] for run in mine]
        figures |= {"lowest": min(rates), "highest": max(rates)}
    if contestant.against:
        theirs = runs[contestant.against]
        ratios = [their[part.rate] / my[part.rate] for their, my in zip(theirs, mine, strict=True)]
        figures |= {
            "ratio": statistics.median(ratios),
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
        }
    return figures


def _numbers(figures: Figures) -> list[str]:
    return [name for name, value in figures.items() if isinstance(value, int | float)]
