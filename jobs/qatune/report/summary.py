"""The end of a run in a terminal: what was measured, three answers, where the report lies."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qatune import log
from qatune.data.records import AnsweredRow
from qatune.report import figures, inputs
from qatune.report.inputs import Inputs
from qatune.store import artifacts
from qatune.store.manifests import Manifest
from qatune.store.objects import Store

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 400
_WIDTH_ELSEWHERE = 100
_STYLES = {"better": "bold green", "worse": "bold red"} | dict.fromkeys(
    ("no measurable difference", "not compared"), "bold"
)
_COMPARED = (
    ("run", "name"), ("model", "model"), ("rows", "rows"), ("samples/s", "samples_per_second"),
    ("seconds of train", "seconds"), ("steps", "steps"), ("training loss", "train_loss"),
    ("held-out loss", "heldout_loss"),
)  # fmt: skip
"""Columns of a comparison and where they come from."""
_SHORT = {"no measurable difference": "not measurable"}


def print_summary(store: Store, run: str) -> None:
    """Write the summary of a finished run to stdout; plain text where that is no terminal."""
    console = _console()
    console.print(_summary(store, run))
    # Never broken over two lines: it is there to be copied.
    line = f"report: {store.uri}/runs/{run}/evaluate/report.html"
    console.print(line, markup=False, soft_wrap=True)


def _console() -> "Console":
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_ELSEWHERE
    return Console(file=sys.stdout, width=width, highlight=False)


def _summary(store: Store, run: str) -> "Group":
    """Build the summary; raise MissingInputError for a run that is not finished."""
    from rich.console import Group
    from rich.text import Text

    metrics = inputs.metrics(store, run)
    found = inputs.load(store, run, artifacts.bound_recipe(store, run))
    answered, _ = inputs.rows(store, found.stages["generate"])
    verdict = metrics["verdict"]
    parts: list[Text | Table] = [Text(verdict["sentence"], style=_STYLES[verdict["outcome"]])]
    parts += [Text(f"  {each}") for each in verdict["details"]]
    parts += [Text(f"  warning: {each}", style="yellow") for each in _warnings(found, metrics)]
    parts += [_measures(metrics), _answers(chosen(answered)), _seconds(found.stages)]
    return Group(*parts)


def print_comparison(compared: Mapping[str, Any]) -> None:
    """Write which of several runs is better, and what each took (`several.comparison`)."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console()
    for pair in compared["pairs"]:
        console.print(Text(pair["sentence"], style="bold"))
    table = Table(*(name for name, _ in _COMPARED), box=box.SIMPLE_HEAD)
    for run in compared["runs"]:
        table.add_row(*(Text(figures.count(run[key])) for _, key in _COMPARED))
    console.print(table)
    for note in compared["notes"]:
        console.print(Text(f"note: {note}"))


def _warnings(found: Inputs, metrics: dict[str, Any]) -> list[str]:
    return [*metrics["warnings"], *(found.checks or {}).get("warnings", ())]


def chosen(rows: list[AnsweredRow]) -> list[AnsweredRow]:
    """Take rows whose answers are neither the shortest nor the longest: always the same ones."""

    def length(row: AnsweredRow) -> int:
        answers = (row.base.text, row.adapter.text if row.adapter else "", row.expected or "")
        return sum(map(len, answers))

    ordered = sorted(rows, key=lambda row: (length(row), row.id))
    first = max((len(ordered) - _SHOWN_ROWS) // 2, 0)
    return ordered[first : first + _SHOWN_ROWS]


def _measures(metrics: dict[str, Any]) -> "Table":
    """Show the measures; without an adapter, what the base has alone."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    compared = metrics["verdict"]["outcome"] != "not compared"
    table = Table("measure", box=box.SIMPLE_HEAD)
    for name in ("base", "adapter", "difference", "95 % interval") if compared else ("base",):
        table.add_column(name, justify="right", no_wrap=True)
    if compared:
        table.add_column("verdict")
    for line in figures.table(metrics["measures"]):
        cells = (
            line.adapter,
            line.difference,
            line.interval,
            _SHORT.get(line.verdict, line.verdict),
        )
        shown = (line.label, line.base, *(cells if compared else ()))
        table.add_row(*map(Text, shown))
    return table


def _seconds(stages: Mapping[str, Manifest]) -> "Table":
    """Say where the seconds went, without the columns that say nothing."""
    from rich import box
    from rich.table import Table

    rows = [figures.spent(stage) for stage in stages.values()]
    columns = zip(figures.SPENT, zip(*rows, strict=True), strict=True)
    said = [(name, cells) for name, cells in columns if set(cells) - {"0.0", figures.DASH}]
    table = Table("seconds of", box=box.SIMPLE_HEAD)
    for name, _ in said:
        table.add_column(name, justify="right")
    for stage, cells in zip(stages, zip(*(cells for _, cells in said), strict=True), strict=True):
        table.add_row(stage, *cells)
    return table


def _answers(rows: list[AnsweredRow]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    for name in ("question", "expected", "base", "adapter"):
        table.add_column(name, ratio=1, overflow="fold")
    for row in rows:
        texts = (
            row.question,
            row.expected,
            row.base.text,
            row.adapter.text if row.adapter else None,
        )
        table.add_row(*(Text(_cut(text)) for text in texts))
    return table


def _cut(text: str | None) -> str:
    """Shorten, and leave out what a terminal cannot show."""
    if text is None:
        return figures.DASH
    safe = log.printable(text.strip())
    return safe if len(safe) <= _SHOWN_CHARACTERS else safe[:_SHOWN_CHARACTERS].rstrip() + " …"
