"""The numbers of a run as text: measures, seconds, counters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qatune.evaluation.measures import BY_KEY, Measure
from qatune.store.manifests import SECONDS, Manifest

_LEAST_CHANCE = 0.001
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
SPENT = (*SECONDS, "sum", "tokens/s", "padding", "of peak")
"""Columns of `spent`."""


@dataclass(frozen=True)
class Line:
    """A measure of both models, as text; a dash where nothing was measured."""

    key: str
    label: str
    better: str
    base: str
    adapter: str
    difference: str
    interval: str
    """Of the difference, 95 %."""
    p: str
    """Adjusted for the number of measures."""
    detectable: str
    verdict: str
    meaning: str


def table(measures: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """Write the measures of a metrics.json, in their order."""
    return [_line(BY_KEY[key], found) for key, found in measures.items()]


def _line(measure: Measure, found: Mapping[str, Any]) -> Line:
    return Line(
        key=measure.key,
        label=measure.label,
        better=measure.better,
        base=shown(found["base"], measure.form),
        adapter=shown(found["adapter"], measure.form),
        difference=DASH if found["difference"] is None else measure.signed(found["difference"]),
        interval=DASH if found["low"] is None else measure.interval(found["low"], found["high"]),
        p=_chance(found["p_adjusted"]),
        detectable=DASH if found["detectable"] is None else measure.amount(found["detectable"]),
        verdict=found["verdict"] or "",
        meaning=measure.meaning,
    )


def _chance(value: float | None) -> str:
    if value is None:
        return DASH
    return f"< {_LEAST_CHANCE}" if value < _LEAST_CHANCE else f"{value:.3f}"


def spent(stage: Manifest) -> list[str]:
    """Write where a stage's time went, in the order of `SPENT`, and what it made of it."""
    parts = [stage.seconds.get(kind, 0.0) for kind in SECONDS]
    return [
        *(f"{value:,.1f}" for value in (*parts, sum(parts))),
        shown(stage.counters.get("tokens_per_second"), "{:,.0f}"),
        shown(stage.counters.get("padding_share"), "{:.1%}"),
        shown(stage.counters.get("peak_share"), "{:.1%}"),
    ]


def shown(value: Any, form: str) -> str:
    """Write a value, or a dash where there is none."""
    return DASH if value is None else form.format(value)


def count(value: float | str | None) -> str:
    """Write a counter: whole numbers in full, others to six digits."""
    if value is None:
        return DASH
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def lengths(content: dict[str, Any]) -> str:
    """Say in words what the histogram of lengths.json shows."""
    shown = content[content["unit"]]
    return (
        f"{shown['rows']:,} rows; half of them have at most {shown['p50']:,} {content['unit']}, "
        f"99 % at most {shown['p99']:,}; the longest has {shown['max']:,}."
    )
