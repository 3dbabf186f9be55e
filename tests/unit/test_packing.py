"""Rows in packs: each once, within the budget, and with labels of its own."""

from itertools import chain, pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutated import PROVEN

from qatune.data.packing import pack
from qatune.model.batches import Collator
from qatune.model.scoring import IGNORED

LENGTHS = st.lists(st.integers(1, 60), max_size=80)
BUDGETS = st.integers(1, 100)
ROWS = st.lists(
    st.lists(st.integers(0, 9), min_size=1, max_size=12).flatmap(
        lambda ids: st.fixed_dictionaries(
            {"input_ids": st.just(ids), "answer_start": st.integers(0, len(ids) - 1)}
        )
    ),
    max_size=12,
)


@PROVEN
@given(LENGTHS, BUDGETS)
def test_each_row_is_in_one_pack(lengths, budget):
    assert sorted(chain(*pack(lengths, budget))) == list(range(len(lengths)))


@PROVEN
@given(LENGTHS, BUDGETS)
def test_a_pack_keeps_to_the_budget_and_a_row_beyond_it_is_alone(lengths, budget):
    for rows in pack(lengths, budget):
        assert len(rows) == 1 or sum(lengths[row] for row in rows) <= budget


@PROVEN
@given(LENGTHS, BUDGETS)
def test_no_two_packs_would_fit_into_one(lengths, budget):
    sizes = sorted(sum(lengths[row] for row in rows) for rows in pack(lengths, budget))
    assert all(first + second > budget for first, second in pairwise(sizes))


@PROVEN
@given(ROWS, st.booleans(), st.integers(1, 12), st.integers(1, 5))
def test_packs_hold_what_padded_rows_hold(rows, completion_only, limit, size):
    settings = {"limit": limit, "rows": size, "completion_only": completion_only}
    packed = Collator(pad_id=0, pack_tokens=settings["rows"] * settings["limit"], **settings)(rows)
    padded = Collator(pad_id=0, pack_tokens=0, **settings)(rows)
    assert packed["supervised"] == padded["supervised"]
    assert packed["tokens"] == padded["tokens"] == packed["positions"]
    assert sorted(_taught(packed)) == sorted(_taught(padded))


def _taught(step):
    """Return what each row of a step shows the model, and where it is learned."""
    for part in step["parts"]:
        for ids, labels, positions in _rows(part):
            assert positions == list(range(len(ids)))
            assert all(label in {IGNORED, token} for label, token in zip(labels, ids, strict=True))
            yield ids, labels


def _rows(part):
    ids = part["input_ids"]
    labels = torch.full_like(ids, IGNORED)
    labels.view(-1)[part["predicting"] + 1] = part["labels"]
    if "cu_seq_lens_q" in part:
        bounds = part["cu_seq_lens_q"].tolist()
        assert part["row_bounds"] == bounds
        assert part["max_length_q"] == max(end - first for first, end in pairwise(bounds))
        for first, end in pairwise(bounds):
            own = slice(first, end)
            positions = part["position_ids"][0, own].tolist()
            yield ids[0, own].tolist(), labels[0, own].tolist(), positions
    else:
        for row, mask in enumerate(part["attention_mask"]):
            length = int(mask.sum())
            yield ids[row, :length].tolist(), labels[row, :length].tolist(), list(range(length))


def test_a_step_is_divided_by_memory_not_by_rows():
    rows = [{"input_ids": [1] * 5, "answer_start": 1} for _ in range(8)]
    step = Collator(pad_id=0, limit=20, rows=2, pack_tokens=40, completion_only=True)(rows)
    assert [part["input_ids"].shape for part in step["parts"]] == [(1, 40)]


def test_a_row_without_an_answer_is_not_computed():
    rows = [
        {"input_ids": [1, 2, 3, 4], "answer_start": 3},
        {"input_ids": [5, 6], "answer_start": 1},
    ]
    step = Collator(pad_id=0, limit=3, rows=2, pack_tokens=6, completion_only=True)(rows)
    assert [part["input_ids"].tolist() for part in step["parts"]] == [[[5, 6]]]
    assert Collator(pad_id=0, limit=1, rows=2, pack_tokens=2, completion_only=True)(rows) == {
        "parts": [], "supervised": 0, "tokens": 0, "squares": 0, "positions": 0
    }  # fmt: skip
