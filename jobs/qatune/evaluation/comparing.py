"""Two models compared by the measures of their rows: from the table to metrics.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qatune.evaluation import statistics, texts
from qatune.evaluation.measures import OF_A_RUN, Measure
from qatune.evaluation.metrics import (
    AllApart,
    Apart,
    BothCorpora,
    Compared,
    Corpus,
    Duplicates,
    Execution,
    Finish,
    Metrics,
    Pair,
    Statistics,
)
from qatune.evaluation.rows import VARIANTS
from qatune.evaluation.spreading import spread
from qatune.evaluation.statistics import Comparison, Paired
from qatune.evaluation.verdicts import verdict

_SHOWN_PAIRS = 20
_LARGEST_EXPONENT = 700
"""e to anything much above it is no float."""


def metrics(rows: pa.Table, errors: int, *, held_out: bool, has_adapter: bool) -> Metrics:
    """Compare the models of a run by its measured rows (`rows.measured`)."""
    compared = _compare(rows, OF_A_RUN) if has_adapter else _alone(rows)
    family = [key for key, each in compared.items() if each.p_adjusted is not None]
    expected = rows["expected"].null_count < len(rows)
    return Metrics(
        rows=len(rows),
        errors=errors,
        verdict=verdict(compared, len(rows), held_out=held_out, has_adapter=has_adapter),
        statistics=Statistics(family=family),
        measures=plain(compared),
        apart=_apart(rows) if has_adapter else None,
        finish=_finish(rows) if has_adapter else None,
        corpus=_corpora(rows, compared),
        signatures=texts.signatures() if expected else None,
        execution=_execution(rows),
        duplicates=_duplicates(rows),
        warnings=_warnings(rows, "held-out rows" if held_out else "rows", has_adapter=has_adapter),
    )


Side = tuple[pa.Table, str]
"""A model's answers: measured rows, and which of the two models of their run it is."""


def paired(measures: Sequence[Measure], one: Side, other: Side) -> list[Paired]:
    """Take the values of two models of the same rows, in the same order."""
    return [
        Paired(
            each.key,
            each.better,
            one=each.values(*one),
            other=each.values(*other),
            weights=each.weights(one[0]) if each.weights else None,
            yes_or_no=each.yes_or_no,
        )
        for each in measures
    ]


def _compare(rows: pa.Table, measures: Sequence[Measure]) -> dict[str, Comparison]:
    return statistics.compare(paired(measures, (rows, "base"), (rows, "adapter")))


def _alone(rows: pa.Table) -> dict[str, Comparison]:
    base = (rows, "base")
    return {pair.key: statistics.alone(pair) for pair in paired(OF_A_RUN, base, base)}


def plain(compared: Mapping[str, Comparison]) -> dict[str, Compared]:
    """Leave out measures of what this run has nothing of, as pass@1 without tests."""
    return {key: Compared(**asdict(each)) for key, each in compared.items() if each.rows}


def _truncated(rows: pa.Table) -> list[Any]:
    cut = (pc.equal(rows[f"{variant}_finish"], "length") for variant in VARIANTS)
    return [pc.fill_null(each, fill_value=False) for each in cut]


def _apart(rows: pa.Table) -> AllApart:
    cut = pc.or_(*_truncated(rows))
    measures = [each for each in OF_A_RUN if each.of_text]
    parts = {"finished": rows.filter(pc.invert(cut)), "truncated": rows.filter(cut)}
    return AllApart(**{
        name: Apart(rows=len(part), measures=plain(_compare(part, measures)))
        for name, part in parts.items()
    })  # fmt: skip


def _finish(rows: pa.Table) -> Finish:
    base, adapter = (np.array(each.to_pylist(), dtype=bool) for each in _truncated(rows))
    return Finish(
        both_finished=int((~base & ~adapter).sum()),
        base_truncated=int((base & ~adapter).sum()),
        adapter_truncated=int((adapter & ~base).sum()),
        both_truncated=int((base & adapter).sum()),
    )


def _corpora(rows: pa.Table, compared: Mapping[str, Comparison]) -> BothCorpora:
    pairs = {
        name: list(zip(rows[f"{name}_text"].to_pylist(), rows["expected"].to_pylist(), strict=True))
        for name in VARIANTS
        if rows[f"{name}_text"].null_count < len(rows)
    }
    known = [[pair for pair in each if None not in pair] for each in pairs.values()]
    scores = spread(texts.corpus, known, rows=len(rows), at_once=1)
    loss = compared["loss_per_token"]
    corpora = {
        name: Corpus(**found, perplexity=_perplexity(getattr(loss, name)))
        for name, found in zip(pairs, scores, strict=True)
    }
    return BothCorpora(base=corpora.get("base"), adapter=corpora.get("adapter"))


def _perplexity(loss: float | None) -> float | None:
    """Return e to the loss; None for no loss, and for one too large to be raised."""
    if loss is None or loss > _LARGEST_EXPONENT:
        return None
    return math.exp(loss)


def _execution(rows: pa.Table) -> Execution | None:
    outcomes = {name: rows[f"{name}_executed"].to_pylist() for name in VARIANTS}
    run = [each for each in outcomes["base"] if each]
    if not run:
        return None
    passed = [
        tuple(outcome == "passed" for outcome in both)
        for both in zip(outcomes["base"], outcomes["adapter"], strict=True)
    ]
    return Execution(
        rows=len(run),
        base=_counts(outcomes["base"]),
        adapter=_counts(outcomes["adapter"]) or None,
        passed_both=passed.count((True, True)),
        passed_base_only=passed.count((True, False)),
        passed_adapter_only=passed.count((False, True)),
    )


def _counts(outcomes: Sequence[str | None]) -> dict[str, int]:
    return {name: outcomes.count(name) for name in sorted({each for each in outcomes if each})}


def _duplicates(rows: pa.Table) -> Duplicates:
    near = rows.filter(pc.is_valid(rows["near_duplicate"]))
    most = near.sort_by([("near_duplicate_similarity", "descending"), ("id", "ascending")])
    pairs = [
        Pair(
            id=row["id"],
            training=row["near_duplicate"],
            similarity=row["near_duplicate_similarity"],
        )
        for row in most.slice(0, _SHOWN_PAIRS).to_pylist()
    ]
    return Duplicates(near=len(near), pairs=pairs)


def _warnings(rows: pa.Table, place: str, *, has_adapter: bool) -> list[str]:
    found = []
    if near := len(rows) - rows["near_duplicate"].null_count:
        found.append(
            f"{near:,} of {len(rows):,} {place} are nearly in the training rows: what is "
            "measured on them is memory, not learning"
        )
    if has_adapter and len(rows) and rows["base_text"].equals(rows["adapter_text"]):
        found.append(
            f"the adapter gives the base's answer to all {len(rows):,} questions: it changes "
            "nothing that is said; was it trained long enough?"
        )
    for variant in VARIANTS:
        losses = [each for each in rows[f"{variant}_loss"].to_pylist() if each is not None]
        if broken := int((~np.isfinite(losses)).sum()) if losses else 0:
            found.append(f"rows whose loss by the {variant} is not a number, left out: {broken:,}")
    return found
