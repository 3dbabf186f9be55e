"""Several models compared on the rows that all of them answered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from qatune.evaluation import statistics
from qatune.evaluation.comparing import paired
from qatune.evaluation.measures import ACROSS_RUNS
from qatune.evaluation.statistics import NO_DIFFERENCE, Comparison
from qatune.evaluation.verdicts import change

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
    sentence: str


def shared_ids(contenders: Sequence[Contender]) -> list[str]:
    """Return the ids of the rows that all have answered, in the first one's order."""
    others = [set(each.rows["id"].to_pylist()) for each in contenders[1:]]
    ids: list[str] = contenders[0].rows["id"].to_pylist()
    return [name for name in ids if all(name in other for other in others)]


def matches(contenders: Sequence[Contender]) -> list[Match]:
    """Compare each with each, on the shared rows. All comparisons make up one family."""
    ids = shared_ids(contenders)
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
    return Match(one, other, measures, " ".join(_sentences(one, other, measures)))


def _sentences(one: str, other: str, measures: dict[str, Comparison]) -> Iterator[str]:
    leading = next((key for key, each in measures.items() if each.verdict), None)
    if leading is None:
        yield f"{other} and {one}: no row can be compared."
        return
    found = measures[leading]
    said = change(leading, found, "shared rows")
    if found.verdict == NO_DIFFERENCE:
        yield f"No measurable difference between {one} and {other}: {said}."
    else:
        yield f"{other} is {found.verdict} than {one}: {said}."
    if leading != _LEADING:
        yield "Their losses could not be compared."
