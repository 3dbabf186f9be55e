"""Several models compared on the rows that all of them answered."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from qatune.evaluation import statistics
from qatune.evaluation.comparing import paired
from qatune.evaluation.measures import ACROSS_RUNS
from qatune.evaluation.statistics import NO_DIFFERENCE, Comparison
from qatune.evaluation.verdicts import NOT_COMPARED, change, leading_measure

_LEADING = ACROSS_RUNS[0].key


@dataclass(frozen=True)
class Contender:
    """A run's model: its adapter, or the base where it has none."""

    name: str
    rows: pa.Table
    variant: str

    def of(self, ids: Sequence[str]) -> pa.Table:
        """Return the rows with these ids, in their order."""
        numbers = pc.index_in(pa.array(ids, pa.string()), value_set=self.rows["id"])
        return self.rows.take(numbers)


@dataclass(frozen=True)
class Match:
    """Two of them, by each measure; `base` in a Comparison is the one, `adapter` the other."""

    one: str
    other: str
    measures: dict[str, Comparison]
    outcome: str
    """What the leading measure says of the other, or `not compared`."""
    sentence: str


def shared_ids(contenders: Sequence[Contender]) -> list[str]:
    """Return the ids of the rows that all have answered, in the first one's order."""
    others = [set(each.rows["id"].to_pylist()) for each in contenders[1:]]
    ids: list[str] = contenders[0].rows["id"].to_pylist()
    return [name for name in ids if all(name in other for other in others)]


def matches(contenders: Sequence[Contender], ids: Sequence[str]) -> list[Match]:
    """Compare each with each, on the shared rows. All comparisons make up one family."""
    sides = {each.name: (each.of(ids), each.variant) for each in contenders}
    couples = list(combinations(sides, 2))
    pairs = [
        replace(pair, key=f"{number} {pair.key}")
        for number, (one, other) in enumerate(couples)
        for pair in paired(ACROSS_RUNS, sides[one], sides[other])
    ]
    found = statistics.compare(pairs)
    return [
        _match(*couple, {
            measure.key: compared
            for measure in ACROSS_RUNS
            if (compared := found[f"{number} {measure.key}"]).rows
        })
        for number, couple in enumerate(couples)
    ]  # fmt: skip


def _match(one: str, other: str, measures: dict[str, Comparison]) -> Match:
    leading = leading_measure(measures)
    if leading is None:
        said = f"{other} and {one}: no row can be compared."
        return Match(one, other, measures, NOT_COMPARED, said)
    found = measures[leading]
    outcome, moved = found.verdict or NO_DIFFERENCE, change(leading, found, "shared rows")
    if outcome == NO_DIFFERENCE:
        said = f"No measurable difference between {one} and {other}: {moved}."
    else:
        said = f"{other} is {outcome} than {one}: {moved}."
    if leading != _LEADING:
        said += " Their losses could not be compared."
    return Match(one, other, measures, outcome, said)
