"""Is the adapter better? The answer in a sentence, with how sure it is."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from qatune.evaluation.measures import BY_KEY
from qatune.evaluation.statistics import NO_DIFFERENCE, Comparison

NOT_COMPARED: Literal["not compared"] = "not compared"
_OUTCOMES = ("better", "worse", NO_DIFFERENCE)


class Verdict(BaseModel):
    """What the leading measure says, and what the others say besides."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    outcome: Literal["better", "worse", "no measurable difference", "not compared"]
    measure: str | None
    """The leading one: the first of the family that has values."""
    sentence: str
    details: list[str]


def verdict(
    compared: Mapping[str, Comparison], rows: int, *, held_out: bool, has_adapter: bool
) -> Verdict:
    """Judge an adapter by its base. `held_out`: the answers are to rows that training left out."""
    if not rows:
        return _not_compared("No question was answered.")
    if not has_adapter:
        return _not_compared(f"The base model alone{_loss(compared)}: nothing to compare it with.")
    leading = leading_measure(compared)
    if leading is None:
        return _not_compared(f"{rows:,} questions were answered; none could be scored.")
    place = "held-out rows" if held_out else "rows"
    found = compared[leading]
    outcome = found.verdict or NO_DIFFERENCE
    return Verdict(
        outcome=outcome,
        measure=leading,
        sentence=f"{outcome.capitalize()}: {change(leading, found, place)}.",
        details=list(_details(compared, leading)),
    )


def leading_measure(compared: Mapping[str, Comparison]) -> str | None:
    """Return the first of the family that has values."""
    return next((key for key, each in compared.items() if each.verdict), None)


def change(key: str, found: Comparison, place: str) -> str:
    """Say how a measure moved, how sure that is, and what could have been seen.

    `place` is what the rows are called.
    """
    measure = BY_KEY[key]
    label = measure.label if measure.label[:2].isupper() else measure.label.lower()
    if found.base is None or found.difference is None:
        return f"{label} was not measured"
    values = [measure.form.format(value) for value in (found.base, found.adapter)]
    moved = f"{label} from {values[0]} to {values[1]}"
    if found.rows == 1:
        return f"{moved} in one row, which can show nothing"
    over = f"over {found.rows:,} {place}"
    if found.low is None or found.high is None:
        return f"{moved} {over}, equal in each"
    difference, interval = measure.signed(found.difference), measure.interval(found.low, found.high)
    said = f"{moved}, {difference} (95 % interval {interval}) {over}"
    if found.verdict != NO_DIFFERENCE:
        return said
    if found.detectable is None:
        return f"{said}; so few rows can show none"
    return f"{said}; one of {measure.amount(found.detectable)} shows in four of five such samples"


def _details(compared: Mapping[str, Comparison], leading: str) -> list[str]:
    """Name the other measures by what they say."""
    said = []
    for outcome in _OUTCOMES:
        labels = [
            BY_KEY[key].label
            for key, each in compared.items()
            if key != leading and each.verdict == outcome
        ]
        if labels:
            said.append(f"{outcome.capitalize()}: {', '.join(labels)}.")
    return said


def _loss(compared: Mapping[str, Comparison]) -> str:
    loss = compared["loss_per_token"].base
    return "" if loss is None else f", loss per token {loss:.4f}"


def _not_compared(sentence: str) -> Verdict:
    return Verdict(outcome=NOT_COMPARED, measure=None, sentence=sentence, details=[])
