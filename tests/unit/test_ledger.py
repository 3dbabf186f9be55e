import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatune.data import ledger
from qatune.data.requests import Question, distinct
from qatune.errors import QatuneError


def test_each_row_once():
    ledger.prove("part", ["a", "b", "c"], ["a", "c"], ["b"])


@pytest.mark.parametrize(
    ("answered", "failed", "reason"),
    [
        (["a"], [], "'b' has neither answer nor error"),
        (["a", "b"], ["b"], "'b' is there more often than asked"),
        (["a", "b", "b"], [], "'b' is there more often"),
        (["a", "b", "x"], [], "'x' is there more often"),
        ([], [], "2 missing"),
    ],
)
def test_every_fault_is_named(answered, failed, reason):
    with pytest.raises(QatuneError, match=reason):
        ledger.prove("part", ["a", "b"], answered, failed)


@given(st.lists(st.sampled_from(["", "a", "b", "row-1", "row-2", "row-3", "row-2+"]), max_size=8))
def test_ids_are_distinct_and_no_row_is_lost(ids):
    rows = list(distinct(Question(name, None, 1) for name in ids))
    assert len({row.id for row in rows}) == len(rows) == len(ids)
    assert all(row.id for row in rows)
    for name, row in zip(ids, rows, strict=True):
        assert row.id == name or row.fault.code == "duplicate_id"
