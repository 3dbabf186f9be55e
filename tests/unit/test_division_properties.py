"""What proves that no row is lost: the ledger, and the division into chunks and shards."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.support.mutated import PROVEN, assert_one_line

from qatune.data import ledger
from qatune.data.shards import Layout, Shard, chunk_of, spans_text
from qatune.errors import QatuneError

IDS = st.lists(st.text(max_size=8), unique=True, max_size=30)
LAYOUTS = st.builds(Layout, st.integers(0, 2000), st.integers(1, 300))


@st.composite
def ledgers(draw):
    """Draw ids, and their permutation parted into answers and errors."""
    asked = draw(IDS)
    entries = draw(st.permutations(asked))
    cut = draw(st.integers(0, len(entries)))
    return asked, entries[:cut], entries[cut:]


def refused(asked, answered, failed):
    with pytest.raises(QatuneError, match="the ledger is wrong") as raised:
        ledger.prove("part", asked, answered, failed)
    assert_one_line(str(raised.value))


@PROVEN
@given(ledgers())
def test_any_permutation_is_proven(drawn):
    ledger.prove("part", *drawn)


@PROVEN
@given(ledgers(), st.data())
def test_a_row_that_is_missing_is_found(drawn, data):
    asked, answered, failed = drawn
    assume(asked)
    lost = data.draw(st.sampled_from(asked))
    refused(
        asked,
        [each for each in answered if each != lost],
        [each for each in failed if each != lost],
    )


@PROVEN
@given(ledgers(), st.booleans(), st.data())
def test_a_row_that_is_there_twice_is_found(drawn, among_answers, data):
    asked, answered, failed = drawn
    assume(asked)
    twice = [data.draw(st.sampled_from(asked))]
    refused(asked, answered + twice * among_answers, failed + twice * (not among_answers))


@PROVEN
@given(ledgers(), st.text(max_size=8), st.data())
def test_a_row_in_place_of_another_is_found(drawn, other, data):
    asked, answered, failed = drawn
    assume(asked)
    gone = data.draw(st.sampled_from(asked))
    assume(other != gone)
    replaced = [[other if each == gone else each for each in side] for side in (answered, failed)]
    refused(asked, *replaced)


@PROVEN
@given(*[st.lists(st.sampled_from("abc"), max_size=5)] * 3)
def test_nothing_but_a_permutation_is_proven(asked, answered, failed):
    if Counter(asked) == Counter(answered) + Counter(failed):
        ledger.prove("part", asked, answered, failed)
    else:
        refused(asked, answered, failed)


@PROVEN
@given(LAYOUTS, st.integers(1, 40))
def test_each_row_is_of_one_chunk_and_each_chunk_of_one_shard(layout, shards):
    rows = [row for chunk in range(layout.chunks) for row in layout.rows_of_chunk(chunk)]
    assert rows == list(range(layout.rows))
    owners = [Shard(number, shards) for number in range(shards)]
    for chunk in range(layout.chunks):
        assert sum(owner.owns(chunk) for owner in owners) == 1
    shares = [layout.chunks_of(owner) for owner in owners]
    assert sorted(chunk for share in shares for chunk in share) == list(range(layout.chunks))
    for owner, share in zip(owners, shares, strict=True):
        assert all(owner.owns(chunk) for chunk in share)
    assert sum(layout.rows_of(share) for share in shares) == layout.rows


@PROVEN
@given(LAYOUTS)
def test_chunks_are_of_bounded_size_and_none_is_empty(layout):
    sizes = [len(layout.rows_of_chunk(chunk)) for chunk in range(layout.chunks)]
    assert all(size == layout.chunk_rows for size in sizes[:-1])
    assert all(0 < size <= layout.chunk_rows for size in sizes)


NUMBERS = st.one_of(st.integers(0, 200), st.integers(99_990, 100_010), st.integers(0, 10**9))


@PROVEN
@given(st.sets(st.tuples(st.integers(0, 100_000), NUMBERS), max_size=30))
def test_parts_have_names_of_their_own_which_tell_the_chunk(places):
    shards = max((number for number, _ in places), default=0) + 1
    names = {(number, chunk): Shard(number, shards).part(chunk) for number, chunk in places}
    assert len(set(names.values())) == len(places)
    for (number, chunk), name in names.items():
        errors = Shard(number, shards).errors(chunk)
        assert chunk_of(f"runs/part-00001-00002.jsonl/generate/{name}") == chunk
        assert chunk_of(errors) == chunk
        assert errors != name


@PROVEN
@given(st.lists(NUMBERS, unique=True, max_size=30), st.integers(1, 20))
def test_parts_sorted_by_their_chunk_are_in_the_order_of_the_input(chunks, shards):
    parts = [Shard(chunk % shards, shards).part(chunk) for chunk in chunks]
    assert [chunk_of(part) for part in sorted(parts, key=chunk_of)] == sorted(chunks)
    few = sorted(chunk for chunk in chunks if chunk < 100_000)
    assert sorted(map(Shard().part, few)) == list(map(Shard().part, few))


@PROVEN
@given(LAYOUTS, st.data())
def test_spans_hold_the_rows_of_their_chunks_and_are_joined(layout, data):
    chunks = data.draw(st.sets(st.integers(0, max(layout.chunks - 1, 0)), max_size=30))
    spans = layout.spans(data.draw(st.permutations(sorted(chunks))))
    inside = [row for first, last in spans for row in range(first - 1, last)]
    assert inside == sorted(row for chunk in chunks for row in layout.rows_of_chunk(chunk))
    assert all(first <= last for first, last in spans)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(spans))
    text = spans_text(spans)
    assert text.count("-") + text.count(",") <= 16
