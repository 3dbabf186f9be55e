"""Two models by their measures, as text and drawing for a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qatune.evaluation.measures import BY_KEY
from qatune.report import drawing, figures
from qatune.report.drawing import Interval

MARKS = {
    "better": "better",
    "worse": "worse",
    "no measurable difference": "same",
    "not compared": "none",
}
"""Which mark stands for a verdict."""
_CORPUS = (
    ("chrf", "chrF", "{:.2f}"),
    ("bleu", "BLEU", "{:.2f}"),
    ("perplexity", "Perplexity", "{:.3f}"),
)


@dataclass(frozen=True)
class Line:
    """A measure of two models: its text, and what is drawn beside it."""

    text: figures.Line
    rows: int
    mark: str
    """Empty where the measure has no verdict."""
    drawn: Interval | None


def lines(measures: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """Write and draw the measures of a metrics.json, in their order."""
    drawn = drawing.intervals(measures, {key: BY_KEY[key].better for key in measures})
    return [
        Line(text, measures[text.key]["rows"], MARKS.get(text.verdict, ""), drawn.get(text.key))
        for text in figures.table(measures)
    ]


def corpus(found: Mapping[str, Mapping[str, Any] | None]) -> list[tuple[str, str, str]]:
    """Write the measures that are of all rows at once: label, base, adapter."""
    base, adapter = (found[variant] or {} for variant in ("base", "adapter"))
    return [
        (label, form.format(base[key]), figures.shown(adapter.get(key), form))
        for key, label, form in _CORPUS
        if base.get(key) is not None
    ]
