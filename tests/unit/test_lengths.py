from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from qatune.config import Data
from qatune.data.lengths import Lengths, picture, summary


@given(st.lists(st.integers(1, 3000), min_size=1), st.integers(1, 2000))
def test_histogram_counts_every_row_once(lengths, limit):
    counted = Lengths()
    counted.add(lengths)
    shown = counted.histogram(limit)
    bins = Counter()
    for length in lengths:
        bins[max(i for i, edge in enumerate(shown["edges"][:-1]) if edge <= length)] += 1
    assert shown["counts"] == [bins[i] for i in range(len(shown["edges"]) - 1)]
    assert shown["rows"] == len(lengths)
    ranked = sorted(lengths)
    assert shown["p50"] == ranked[-(-len(ranked) // 2) - 1]
    assert (shown["min"], shown["max"]) == (ranked[0], ranked[-1])


def test_one_huge_row_does_not_flatten_the_others():
    counted = Lengths()
    counted.add([*range(100, 200)] * 3)
    counted.add([50_000_000])
    shown = counted.histogram(250)
    assert shown["edges"][-2:][0] < 1000 < shown["edges"][-1]
    assert shown["counts"][-1] == 1


def test_no_rows_at_all():
    assert Lengths().histogram(10)["rows"] == 0


def test_the_picture_is_the_same_each_time_and_shows_the_limit():
    tokens = Lengths()
    tokens.add([3, 5, 8, 8, 20])
    numbers = summary(Data(source="-", max_length=16), tokens, tokens)
    drawn = picture(numbers)
    assert drawn == picture(numbers)
    assert b"limit 16" in drawn
