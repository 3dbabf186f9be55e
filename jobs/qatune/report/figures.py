"""The numbers of base and adapter in words: names, directions, differences, a careful verdict."""

from dataclasses import dataclass
from typing import Any, Literal

from qatune.store.manifests import SECONDS, Manifest

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
SPENT = (*SECONDS, "sum", "tokens/s", "padding", "of peak")
"""Columns of `spent`."""


@dataclass(frozen=True)
class Measure:
    key: str
    label: str
    form: str
    better: Literal["lower", "higher", ""]
    """Empty where neither is better in itself."""
    meaning: str


MEASURES = (
    Measure(
        "loss_per_token", "Loss per token", "{:.4f}", "lower",
        "How unlikely the model finds the expected answers: mean negative log-likelihood of their "
        "tokens, end mark included, in nats. Needs no generated text.",
    ),
    Measure(
        "perplexity", "Perplexity", "{:.3f}", "lower",
        "e to the loss: between how many equally likely tokens the model seems to choose.",
    ),
    Measure(
        "chrf", "chrF", "{:.2f}", "higher",
        "Overlap of answers and expected answers in sequences of characters, 0 to 100.",
    ),
    Measure(
        "bleu", "BLEU", "{:.2f}", "higher",
        "Overlap in sequences of up to four words, 0 to 100; too short answers lose.",
    ),
    Measure(
        "rouge_l", "ROUGE-L", "{:.4f}", "higher",
        "Longest common sequence of words, gaps allowed: mean F of the rows, 0 to 1, by "
        "rouge-score, which sees only Latin letters and digits.",
    ),
    Measure(
        "mean_tokens", "Tokens per answer", "{:,.1f}", "",
        "Generated tokens, end mark included.",
    ),
    Measure("mean_characters", "Characters per answer", "{:,.1f}", "", "Length of the text."),
    Measure(
        "truncated_share", "Truncated answers", "{:.1%}", "lower",
        "Cut off at the limit of new tokens before the model ended them.",
    ),
    Measure("empty_share", "Empty answers", "{:.1%}", "lower", "Nothing but white space."),
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A measure of both models, as text."""

    label: str
    better: str
    base: str
    adapter: str
    difference: str
    trend: Literal["better", "worse", ""]


def table(metrics: dict[str, Any]) -> list[Line]:
    """Compare the measures of a metrics.json; a dash where nothing was measured."""
    base, adapter = metrics["base"] or {}, metrics["adapter"] or {}
    return [_line(measure, base.get(measure.key), adapter.get(measure.key)) for measure in MEASURES]


def _line(measure: Measure, base: float | None, adapter: float | None) -> Line:
    difference, trend = DASH, ""
    if base is not None and adapter is not None:
        change = adapter - base
        size = measure.form.format(abs(change)).replace("%", " points")
        none = size == measure.form.format(0).replace("%", " points")
        difference = "0" if none else ("+" if change > 0 else MINUS) + size
        if measure.better and not none:
            trend = "better" if (change < 0) == (measure.better == "lower") else "worse"
    return Line(
        measure.label, measure.better, _shown(base, measure.form), _shown(adapter, measure.form),
        difference,
        "better" if trend == "better" else "worse" if trend else "",
    )  # fmt: skip


def change(before: float, after: float) -> str:
    """Say how a loss moved: `fell from 2.10 to 1.73 (-17.6 %)`."""
    if f"{before:.4f}" == f"{after:.4f}":
        return f"stayed at {before:.4f}"
    places = 2 if f"{before:.2f}" != f"{after:.2f}" else 4
    verb = "fell" if after < before else "rose"
    share = f" ({(after / before - 1) * 100:+.1f} %)".replace("-", MINUS) if before else ""
    return f"{verb} from {before:.{places}f} to {after:.{places}f}{share}"


def verdict(metrics: dict[str, Any], *, held_out: bool) -> str:
    """Say in one sentence what was measured, and no more."""
    base, adapter = metrics["base"] or {}, metrics["adapter"] or {}
    before, after = base.get("loss_per_token"), adapter.get("loss_per_token")
    name = "Held-out loss" if held_out else "Loss on the expected answers"
    if before is not None and after is not None:
        return f"{name} {change(before, after)}."
    if before is not None:
        return f"The base model alone: {name.lower()} {before:.2f}."
    if not metrics["rows"]:
        return "No question was answered."
    return f"{metrics['rows']:,} questions were answered; none could be scored."


def spent(stage: Manifest) -> list[str]:
    """Write where a stage's time went, in the order of `SPENT`, and what it made of it."""
    parts = [stage.seconds.get(kind, 0.0) for kind in SECONDS]
    return [
        *(f"{value:,.1f}" for value in (*parts, sum(parts))),
        _shown(stage.counters.get("tokens_per_second"), "{:,.0f}"),
        _shown(stage.counters.get("padding_share"), "{:.1%}"),
        _shown(stage.counters.get("peak_share"), "{:.1%}"),
    ]


def _shown(value: float | str | None, form: str) -> str:
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
