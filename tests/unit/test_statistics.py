"""Statistics against scipy called directly, and against what is known of the data."""

import numpy as np
import pytest
from scipy import stats

from qatune.evaluation import statistics
from qatune.evaluation.statistics import NO_DIFFERENCE, Paired, compare, holm


def values(rows=80, seed=3):
    rng = np.random.default_rng(seed)
    one = rng.gamma(2, 1, rows)
    return one, one + rng.normal(-0.15, 0.4, rows), rng.integers(1, 40, rows).astype(float)


def one_measure(one, other, weights=None, *, better="lower", yes_or_no=False, **given):
    return compare([Paired("m", better, one, other, weights, yes_or_no)], **given)["m"]


def test_interval_agrees_with_scipy():
    one, other, weights = values()
    found = one_measure(one, other, weights)

    def mean_difference(one, other, weights, axis):
        return (weights * (other - one)).sum(axis) / weights.sum(axis)

    direct = stats.bootstrap(
        (one, other, weights), mean_difference, paired=True, vectorized=True,
        method="percentile", n_resamples=10_000, rng=np.random.default_rng(0),
    )  # fmt: skip
    interval = direct.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    step = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert found.detectable == pytest.approx(step * direct.standard_error)
    assert found.difference == pytest.approx(np.average(other - one, weights=weights))


def test_p_agrees_with_scipy():
    one, other, _ = values()
    direct = stats.permutation_test(
        (other - one,), lambda sample, axis: sample.mean(axis), permutation_type="samples",
        vectorized=True, n_resamples=10_000, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert one_measure(one, other).p == pytest.approx(direct.pvalue)


def test_shares_are_tested_as_mcnemar_does():
    one = np.array([1.0] * 12 + [0.0] * 28)
    other = np.array([1.0] * 10 + [0.0] * 2 + [1.0] * 9 + [0.0] * 19)
    found = one_measure(one, other, better="higher", yes_or_no=True)
    assert found.p == stats.binomtest(9, 11).pvalue
    assert (found.base, found.adapter) == (12 / 40, 19 / 40)


def test_holm():
    # Holm 1979, the worked steps: each p times how many are left, never falling, at most 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_measures_of_no_direction_are_outside_of_the_family():
    one, other, _ = values()
    found = compare([Paired("a", "lower", one, other), Paired("b", "", one, other)])
    assert found["a"].p_adjusted == found["a"].p
    assert (found["b"].p, found["b"].p_adjusted, found["b"].verdict) == (None, None, None)
    assert (found["a"].low, found["a"].high) == (found["b"].low, found["b"].high)


def test_rows_without_a_value_of_both_are_left_out():
    one, other, _ = values()
    few = one.copy()
    few[10:] = np.nan
    found = compare([Paired("all", "lower", one, other), Paired("few", "lower", few, other)])
    assert found["all"].rows == 80
    assert found["few"].rows == 10
    assert found["few"].base == pytest.approx(one[:10].mean())
    assert found["few"].adapter == pytest.approx(other[:10].mean())


@pytest.mark.parametrize(("better", "verdict"), [("lower", "better"), ("higher", "worse")])
def test_a_clear_difference_has_a_verdict(better, verdict):
    one, other, _ = values(rows=400)
    assert one_measure(one, other - 0.2, better=better).verdict == verdict


def test_the_detectable_difference_is_found_in_four_of_five_samples():
    rng = np.random.default_rng(1)
    rows, found = 60, []
    amount = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / np.sqrt(rows)
    for _ in range(150):
        one = rng.normal(0, 1, rows)
        result = one_measure(one, one + rng.normal(amount, 1, rows), better="higher", resamples=400)
        found.append(result.verdict == "better")
    assert 0.7 < np.mean(found) < 0.9


@pytest.mark.parametrize("rows", [60, 300])
def test_base_against_base_is_no_difference_in_93_of_100_seeds(rows):
    """Exchange the models' names at random: nothing in the data says which is which."""
    quiet = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        common = rng.gamma(2, 1, rows)
        measures = []
        for number in range(8):
            both = np.stack([common + rng.normal(0, 0.5, rows) for _ in range(2)])
            if number > 5:
                both = (both > 2).astype(float)
            measures.append((both, number > 5))
        swapped = rng.random(rows) < 0.5
        pairs = [
            Paired(
                str(number), "lower", np.where(swapped, both[1], both[0]),
                np.where(swapped, both[0], both[1]), yes_or_no=share,
            )
            for number, (both, share) in enumerate(measures)
        ]  # fmt: skip
        found = compare(pairs, resamples=1000, seed=seed)
        quiet += all(each.verdict == NO_DIFFERENCE for each in found.values())
    assert quiet >= 93


@pytest.mark.parametrize(
    ("one", "other", "rows"),
    [([1.0], [2.0], 1), ([1.0, np.nan], [2.0, 3.0], 1), ([1.0, 2.0, 2.0], [1.0, 2.0, 2.0], 3)],
)
def test_what_one_row_or_equal_rows_cannot_tell(one, other, rows):
    found = one_measure(np.array(one), np.array(other))
    assert (found.rows, found.low, found.high, found.detectable) == (rows, None, None, None)
    assert found.verdict == NO_DIFFERENCE


def test_a_measure_without_rows_has_no_numbers():
    nothing = np.full(3, np.nan)
    assert one_measure(nothing, nothing) == statistics.Comparison(rows=0, base=None)
    assert compare([]) == {}


def test_a_large_family_can_still_have_a_verdict():
    one, other, _ = values(rows=60)
    pairs = [Paired(str(number), "lower", one, other - 0.5) for number in range(300)]
    found = compare(pairs, resamples=100)
    assert {each.verdict for each in found.values()} == {"better"}


def test_equal_seeds_give_equal_results():
    one, other, _ = values()
    assert one_measure(one, other) == one_measure(one, other)
    assert one_measure(one, other).low != one_measure(one, other, seed=1).low


def test_one_model_alone():
    one, _, weights = values()
    found = statistics.alone(Paired("m", "lower", one, one, weights))
    assert (found.rows, found.base) == (80, pytest.approx(np.average(one, weights=weights)))
    assert (found.adapter, found.verdict) == (None, None)
