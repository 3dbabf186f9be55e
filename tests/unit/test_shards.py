import itertools

import pytest

from qatune.data.shards import Layout, Shard, chunk_of, spans_text

SIZES = list(itertools.product((0, 1, 5, 6, 7, 64, 100), (1, 3, 7), (1, 2, 3, 20)))


@pytest.mark.parametrize(("rows", "chunk_rows", "shards"), SIZES)
def test_each_row_belongs_to_one_shard(rows, chunk_rows, shards):
    layout = Layout(rows, chunk_rows)
    found = []
    for number in range(shards):
        shard = Shard(number, shards)
        chunks = layout.chunks_of(shard)
        assert all(shard.owns(chunk) for chunk in chunks)
        mine = [row for chunk in chunks for row in layout.rows_of_chunk(chunk)]
        assert layout.rows_of(chunks) == len(mine)
        spans = layout.spans(chunks)
        assert [row for first, last in spans for row in range(first - 1, last)] == sorted(mine)
        found += mine
    assert sorted(found) == list(range(rows))


def test_spans_join_neighbours_and_end_with_the_last_row():
    layout = Layout(rows=200, chunk_rows=64)
    assert layout.spans([1, 3]) == [(65, 128), (193, 200)]
    assert layout.spans([3, 0, 1]) == [(1, 128), (193, 200)]
    assert spans_text(layout.spans([1, 3])) == "65-128, 193-200"
    assert spans_text([(7, 7)]) == "7"
    many = [(number, number) for number in range(1, 30, 2)]
    assert spans_text(many) == "1, 3, 5, 7, 9, 11, 13, 15 and 7 more ranges"


def test_a_part_names_its_shard_and_its_chunk():
    shard = Shard(2, 5)
    assert shard.part(7) == "parts/part-00002-00007.jsonl"
    assert shard.errors(7) == "errors/part-00002-00007.jsonl"
    assert [chunk_of(f"runs/r/generate/{shard.part(n)}") for n in (7, 123_456)] == [7, 123_456]
    with pytest.raises(ValueError, match="no part"):
        chunk_of("runs/r/generate/openai/base.jsonl")
