import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qatune.config import Split
from qatune.data.splits import group_hash, held_out, on_both_sides, passing_hash
from qatune.errors import BadDataError


@pytest.mark.parametrize(
    ("rows", "size", "seed"),
    [
        (24_899, 0.2, 42),
        (24_899, 0.2, 0),
        (10, 0.25, 1),
        (7, 3, 42),
        (2, 0.5, 42),
        (1001, 0.333, 9),
    ],
)
def test_shuffle_holds_out_what_datasets_does(rows, size, seed):
    import datasets

    numbers = datasets.Dataset.from_dict({"n": list(range(rows))})
    theirs = numbers.train_test_split(test_size=size, seed=seed)
    mask = held_out(Split(method="shuffle", test_size=size, seed=seed), rows, ())
    assert set(mask.nonzero()[0].tolist()) == set(theirs["test"]["n"])
    assert mask.sum() == len(theirs["test"])


def test_the_reference_counts():
    mask = held_out(Split(method="shuffle"), 24_899, ())
    assert (int((~mask).sum()), int(mask.sum())) == (19_919, 4_980)


words = st.text(alphabet="aA bB\t", min_size=1).filter(str.strip)


@given(st.lists(words, min_size=2), st.integers(0, 5), st.floats(0.05, 0.6))
def test_group_keeps_a_question_on_one_side(questions, seed, size):
    split = Split(test_size=size, seed=seed)
    groups = [group_hash(question, seed) for question in questions]
    if len(set(groups)) == 1 or not 0 < -(-size * len(questions) // 1) < len(questions):
        with pytest.raises(BadDataError):
            held_out(split, len(questions), groups)
        return
    mask = held_out(split, len(questions), groups)
    sides = {}
    for question, side in zip(questions, mask.tolist(), strict=True):
        sides.setdefault(" ".join(question.casefold().split()), set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert 0 < mask.sum() < len(mask)


def test_group_does_not_depend_on_the_order_of_rows():
    questions = [f"question {number}" for number in range(100)]
    groups = [group_hash(question, 42) for question in questions]
    forward = held_out(Split(), 100, groups)
    backward = held_out(Split(), 100, groups[::-1])
    assert forward.sum() == 20
    assert forward.tolist() == backward.tolist()[::-1]


def test_another_seed_holds_out_others():
    masks = [
        held_out(Split(), 200, [group_hash(f"q {number}", seed) for number in range(200)]).tolist()
        for seed in (1, 2)
    ]
    assert masks[0] != masks[1]


@pytest.mark.parametrize("method", ["group", "shuffle"])
@pytest.mark.parametrize(("rows", "size"), [(3, 3), (3, 0.9), (1, 0.2), (3, 5)])
def test_a_side_without_rows_is_refused(method, rows, size):
    with pytest.raises(BadDataError, match=r"data\.split\.test_size"):
        held_out(Split(method=method, test_size=size), rows, list(range(rows)))


def test_one_question_only_is_refused():
    with pytest.raises(BadDataError, match="same question"):
        held_out(Split(), 10, [7] * 10)


def whole_groups(groups, asked):
    """Hold out by the definition: sort, add up, take the nearest sum, of two the smaller."""
    hashes, sizes = np.unique(groups, return_counts=True)
    sums = np.cumsum(sizes)[:-1]
    return groups <= hashes[int(np.argmin(np.abs(sums - asked)))]


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.integers(1, 59))
def test_groups_come_as_near_to_the_size_as_they_can(groups, asked):
    assume(asked < len(groups) and len(set(groups)) > 1)
    hashes = np.array(groups, dtype=np.uint64)
    found = held_out(Split(test_size=asked), len(groups), hashes)
    assert found.tolist() == whole_groups(hashes, asked).tolist()


def test_dividing_a_million_rows_takes_eleven_bytes_a_row():
    rows = 1_000_000
    groups = np.random.default_rng(0).integers(0, 2**63, rows, dtype=np.uint64)
    tracemalloc.start()
    held_out(Split(), rows, groups)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 11 * rows


@given(st.lists(words, min_size=2), st.data())
def test_questions_on_both_sides_are_the_held_out_ones_that_are_trained_on(questions, data):
    mask = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(questions), max_size=len(questions)))
    )
    normal = [" ".join(question.casefold().split()) for question in questions]
    trained = {one for one, out in zip(normal, mask, strict=True) if not out}
    expected = sum(one in trained for one, out in zip(normal, mask, strict=True) if out)
    for hash_of in (partial(group_hash, seed=42), passing_hash):
        assert on_both_sides([hash_of(question) for question in questions], mask) == expected
