"""Is a difference more than chance? Paired statistics over the rows that both models answered.

A measure is a weighted mean over rows: the sum of weight x value over the sum of weights. Rows are
what is drawn anew, so that all measures of one resample are those of the same rows.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from qatune.evaluation.measures import Better, Values

CONFIDENCE, POWER, RESAMPLES, SEED = 0.95, 0.8, 10_000, 0
_EXCHANGES = 200
"""For each measure of a family, so that its smallest adjusted p-value is a fifth of 0.05."""
_FEWEST = 2
"""Rows that can differ from each other."""
_AT_ONCE = 1 << 22
"""Row numbers of a batch of resamples, so that memory does not grow with the rows."""

Verdict = Literal["better", "worse", "no measurable difference"]
NO_DIFFERENCE: Verdict = "no measurable difference"

METHODS = {
    "interval": "95 % percentile bootstrap of the difference over rows (scipy.stats.bootstrap)",
    "p": "paired permutation test, two-sided: the models' names exchanged at random in each row, "
    "at least 200 times for each measure of the family (scipy.stats.permutation_test); for shares "
    "McNemar's exact test (scipy.stats.binomtest)",
    "family": "Holm's step-down over all measures that have a better direction; a difference is "
    "called one where the adjusted p is below 0.05 and the interval does not hold 0",
    "detectable": "the difference that would be found in 80 % of such samples, at the strictest "
    "step of Holm's: (z(1 - 0.05 / 2m) + z(0.8)) standard errors of the bootstrap; none for so few "
    "rows that no exchange of names reaches a small enough p",
}


@dataclass(frozen=True)
class Paired:
    """A measure's values of two models, a row each; NaN where a model has none."""

    key: str
    better: Better
    one: Values
    other: Values
    weights: Values | None = None
    yes_or_no: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two models by one measure. All numbers are of the rows that have a value of both."""

    rows: int
    base: float | None
    adapter: float | None = None
    difference: float | None = None
    """The other model's less the first one's."""
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    verdict: Verdict | None = None


def alone(pair: Paired) -> Comparison:
    """Describe a single model, `one`."""
    weights = _weights(pair, pair.one)
    total = float(weights.sum())
    mean = float((weights * np.nan_to_num(pair.one)).sum() / total) if total else None
    return Comparison(rows=int((weights > 0).sum()), base=mean)


def compare(
    pairs: Sequence[Paired], *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Comparison]:
    """Compare two models by several measures of the same rows, which make up one family.

    Equal values and seeds give equal results. A measure without a row of both has no numbers.
    """
    weighed = {pair.key: _weights(pair, pair.one + pair.other) for pair in pairs}
    usable = [pair for pair in pairs if weighed[pair.key].any()]
    found = {pair.key: Comparison(rows=0, base=None) for pair in pairs}
    if not usable:
        return found
    family = [pair.key for pair in usable if pair.better]
    weights = np.column_stack([weighed[pair.key] for pair in usable])
    differences = np.column_stack([np.nan_to_num(pair.other - pair.one) for pair in usable])
    drawn = _bootstrap(weights * differences, weights, resamples, seed)
    exchanges = max(resamples, _EXCHANGES * len(family))
    chances = _permutation(weights * differences, exchanges, seed)
    for number, pair in enumerate(usable):
        spread = {name: float(values[number]) for name, values in drawn.items()}
        chance = _mcnemar(pair) if pair.yes_or_no else float(chances[number])
        found[pair.key] = _compared(pair, weights[:, number], spread, chance, len(family))
    return _judged(found, {pair.key: pair.better for pair in usable if pair.better})


def holm(chances: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979), in the given order."""
    order = np.argsort(chances, kind="stable")
    steps = np.arange(len(chances), 0, -1) * np.asarray(chances)[order]
    adjusted = np.empty(len(chances))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(each) for each in adjusted]


def _weights(pair: Paired, values: Values) -> Values:
    """Weigh rows without a value by nothing."""
    weights = np.ones(len(values)) if pair.weights is None else np.nan_to_num(pair.weights)
    return np.where(np.isnan(values), 0.0, weights)


def _bootstrap(terms: Values, weights: Values, resamples: int, seed: int) -> dict[str, Values]:
    """Return low, high and error (standard) of each measure's difference.

    `terms` are weight x difference, `weights` the weights; (rows, measures) each.
    """
    from scipy import stats

    rows, measures = terms.shape
    if rows < _FEWEST:
        return {name: np.full(measures, np.nan) for name in ("low", "high", "error")}

    def difference(drawn: Any, axis: int) -> Any:
        """Take (resamples, rows) row numbers; return (measures, resamples)."""
        del axis
        drawn = np.atleast_2d(drawn)
        firsts = rows * np.arange(len(drawn))[:, None]
        times = np.bincount((drawn + firsts).ravel(), minlength=drawn.size)
        times = times.reshape(drawn.shape).astype(np.float64)
        with np.errstate(invalid="ignore"):  # a resample may hold no row with a value
            return ((times @ terms) / (times @ weights)).T

    with warnings.catch_warnings():
        # Of resamples without a row that has a value: they are left out below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(rows),), difference, vectorized=True, method="percentile",
            confidence_level=CONFIDENCE, n_resamples=resamples, batch=max(_AT_ONCE // rows, 1),
            rng=np.random.default_rng(seed),
        )  # fmt: skip
    spread = found.bootstrap_distribution
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.nanquantile(spread, tails, axis=-1)
    return {"low": low, "high": high, "error": np.nanstd(spread, axis=-1, ddof=1)}


def _permutation(terms: Values, resamples: int, seed: int) -> Values:
    """Return each measure's p-value; `terms` are weight x difference, (rows, measures)."""
    from scipy import stats

    rows, measures = terms.shape
    if rows < _FEWEST:
        return np.ones(measures)

    def total(signed: Any, axis: int) -> Any:
        """Take (resamples, rows) row numbers, those of exchanged rows negative."""
        del axis
        return np.sign(signed) @ terms

    found = stats.permutation_test(
        (np.arange(1.0, rows + 1),), total, permutation_type="samples", vectorized=True,
        n_resamples=resamples, batch=max(_AT_ONCE // rows, 1), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return found.pvalue


def _mcnemar(pair: Paired) -> float:
    """Test two models' yes and no by the rows in which they differ (McNemar 1947, exact)."""
    from scipy import stats

    gained = int(((pair.other == 1) & (pair.one == 0)).sum())
    lost = int(((pair.other == 0) & (pair.one == 1)).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _compared(
    pair: Paired, weights: Values, spread: dict[str, float], chance: float, family: int
) -> Comparison:
    from scipy.stats import norm

    total = weights.sum()
    one, other = (
        float((weights * np.nan_to_num(values)).sum() / total) for values in (pair.one, pair.other)
    )
    found = Comparison(int((weights > 0).sum()), one, other, other - one)
    # One row, or rows that are all equal, say nothing of how far the truth may be.
    if found.rows < _FEWEST or not (spread["error"] or found.difference):
        return replace(found, p=chance)
    strictest = (1 - CONFIDENCE) / max(family, 1)
    needed = float(norm.ppf(1 - strictest / 2) + norm.ppf(POWER))
    # Of all ways to exchange names two are the most extreme: so few rows can show nothing.
    able = 2.0 ** (1 - found.rows) < strictest
    return replace(
        found, low=spread["low"], high=spread["high"], p=chance,
        detectable=needed * spread["error"] or None if able else None,
    )  # fmt: skip


def _judged(found: dict[str, Comparison], better: dict[str, Better]) -> dict[str, Comparison]:
    """Adjust the p-values of the family, and give each measure of it its verdict."""
    chances = {key: each.p for key, each in found.items() if key in better and each.p is not None}
    judged = {
        key: replace(
            found[key], p_adjusted=chance, verdict=_verdict(found[key], chance, better[key])
        )
        for key, chance in zip(chances, holm(list(chances.values())), strict=True)
    }
    return {key: judged.get(key, replace(each, p=None)) for key, each in found.items()}


def _verdict(found: Comparison, chance: float, better: Better) -> Verdict:
    if found.low is None or found.high is None or found.difference is None:
        return NO_DIFFERENCE
    if chance >= 1 - CONFIDENCE or found.low <= 0 <= found.high:
        return NO_DIFFERENCE
    return "better" if (found.difference < 0) == (better == "lower") else "worse"
