"""Several runs side by side: one HTML file that needs nothing but a browser."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qatune.evaluation.measures import ACROSS_RUNS, BY_KEY
from qatune.report import compared, figures, html

_SCRIPTS = ("print.js",)
_FACTS = (
    ("model", "Base model", "{}"),
    ("quantization", "Quantization", "{}"),
    ("device", "Device", "{}"),
    ("rows", "Rows answered", "{:,}"),
    ("trainable_parameters", "Trained parameters", "{:,}"),
    ("steps", "Optimizer steps", "{:,}"),
    ("seconds", "Seconds of the train stage", "{:,.1f}"),
    ("samples_per_second", "Samples per second", "{:,.3f}"),
    ("train_loss", "Training loss", "{:.4f}"),
    ("heldout_loss", "Held-out loss", "{:.4f}"),
)
_OF_OTHER_ROWS = f"{figures.DASH} rows differ"

Comparison = Mapping[str, Any]
Line = tuple[str, list[str]]
"""A label, and what stands there for each run."""


def render_comparison(comparison: Comparison) -> bytes:
    """Build the page of several runs (`report.several`): equal inputs give equal bytes."""
    runs, pairs = comparison["runs"], comparison["pairs"]
    return html.page(
        "compare.html",
        _SCRIPTS,
        comparison=comparison,
        runs=runs,
        marks=compared.MARKS,
        pairs=[
            (pair, compared.MARKS[pair["outcome"]], compared.lines(pair["measures"]))
            for pair in pairs
        ],
        side_by_side=list(_side_by_side(runs, pairs)),
        alone=list(_alone(runs)),
        facts=list(_facts(runs)),
        meanings=list(_meanings(pairs)),
    )


def _side_by_side(runs: Sequence[Comparison], pairs: Sequence[Comparison]) -> Iterator[Line]:
    """Give each run's measures on the rows that all runs answered."""
    for measure in ACROSS_RUNS:
        found = [pair for pair in pairs if measure.key in pair["measures"]]
        if found:
            values = _values(found, measure.key)
            cells = [figures.shown(values.get(run["name"]), measure.form) for run in runs]
            yield measure.label, cells if values else [_OF_OTHER_ROWS] * len(runs)


def _values(pairs: Sequence[Comparison], key: str) -> dict[str, float]:
    """Return each run's value; none where it is of other rows in another pair.

    A pair's values are of the rows where both of its runs have one.
    """
    values: dict[str, float] = {}
    for pair in pairs:
        found = pair["measures"][key]
        for run, value in ((pair["one"], found["base"]), (pair["other"], found["adapter"])):
            if not math.isclose(values.setdefault(run, value), value, rel_tol=1e-9):
                return {}
    return values if len({pair["measures"][key]["rows"] for pair in pairs}) == 1 else {}


def _alone(runs: Sequence[Comparison]) -> Iterator[Line]:
    """Give each run's base and adapter, on its own rows."""
    for key, measure in BY_KEY.items():
        found = [run["measures"].get(key) for run in runs]
        if any(found):
            yield measure.label, [_moved(each, measure.form) for each in found]


def _moved(found: Mapping[str, float | None] | None, form: str) -> str:
    if found is None or found["base"] is None:
        return figures.DASH
    before = figures.shown(found["base"], form)
    return (
        before
        if found["adapter"] is None
        else f"{before} \N{RIGHTWARDS ARROW} {figures.shown(found['adapter'], form)}"
    )


def _facts(runs: Sequence[Comparison]) -> Iterator[Line]:
    for key, label, form in _FACTS:
        if any(run[key] is not None for run in runs):
            yield label, [figures.shown(run[key], form) for run in runs]


def _meanings(pairs: Sequence[Comparison]) -> Iterator[tuple[str, str]]:
    for measure in ACROSS_RUNS:
        if any(measure.key in pair["measures"] for pair in pairs):
            yield measure.label, measure.meaning
