import os
import threading

import pytest

from qatune.config import Columns, Data
from qatune.data.ahead import ahead, mapped_ahead
from qatune.data.records import Rejected, SourceRow
from qatune.data.seen import SeenSet, digest
from qatune.data.selection import BATCH_CHARACTERS, BATCH_ROWS, Selection, batched


def row(number, question="Q", answer="A", name=None):
    return SourceRow("f", number, question, answer, name)


def select(records, **data):
    selection = Selection(Data(source="-", **data), lambda text: len(text) // 4)
    batches = [selection.select([record]) for record in records]
    selection.close()
    return [batch.rejected[0].reason if batch.rejected else "ok" for batch in batches]


def test_the_first_of_equal_rows_is_kept():
    records = [row(1), row(2, "Q", "B"), row(3), row(4, "QA", "")]
    assert select(records) == ["ok", "ok", "duplicate", "ok"]
    assert select(records, drop_duplicates=False) == ["ok"] * 4


def test_the_first_of_equal_ids_is_kept_and_is_no_duplicate_of_the_other():
    records = [row(1, "Q", "A", "x"), row(2, "R", "B", "x"), row(3, "R", "B", "y")]
    columns = Columns(id="id")
    assert select(records, columns=columns) == ["ok", "duplicate_id", "ok"]


def test_ids_number_the_rows_read_over_all_files():
    selection = Selection(Data(source="-"), len)
    first = selection.select([row(1), Rejected("f", 2, "null")])
    second = selection.select([row(1, "R")])
    assert [r.id for r in (*first.candidates, *second.candidates)] == ["1", "3"]


def test_a_row_that_cannot_fit_never_reaches_the_tokenizer():
    assert select([row(1, "Q" * 400), row(2, "Q" * 30)], max_length=50) == ["too_long", "ok"]


def test_characters_count_the_whole_text():
    fixed = len("### Question: \n### Answer: ")
    data = {"length_unit": "characters", "max_length": fixed + 10}
    assert select([row(1, "Q" * 5, "A" * 5), row(2, "Q" * 5, "A" * 6)], **data) == [
        "ok",
        "too_long",
    ]


def test_batches_are_bounded_and_lose_nothing():
    records = [row(n) for n in range(BATCH_ROWS + 5)] + [row(0, "x" * BATCH_CHARACTERS), row(1)]
    batches = list(batched(records))
    assert [len(batch) for batch in batches] == [BATCH_ROWS, 6, 1]
    assert [record for batch in batches for record in batch] == records


def test_seen_set_tells_new_from_old_within_and_across_batches():
    seen = SeenSet()
    a, b, c = map(digest, "abc")
    assert seen.add([a, b, a]) == [True, True, False]
    assert seen.add([c, b, c]) == [True, False, False]
    assert seen.add([]) == []


def test_ahead_keeps_the_order_and_passes_errors_on():
    def items():
        yield from range(5)
        raise ValueError("broken")

    found = ahead(items())
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_ahead_stops_its_thread_when_the_consumer_stops():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    found = ahead(endless())
    next(found)
    found.close()
    assert closed.is_set()


def test_mapped_ahead_keeps_the_order_while_the_threads_work_side_by_side():
    together = threading.Barrier(2, timeout=10)  # breaks where one waits for the other's end

    def work(item):
        together.wait()
        return item * 10

    assert list(mapped_ahead(work, range(6))) == [0, 10, 20, 30, 40, 50]


def test_mapped_ahead_raises_in_the_order_of_the_items():
    def work(item):
        if item == 3:
            raise ValueError("broken")
        return item

    found = mapped_ahead(work, range(100))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_mapped_ahead_reads_no_further_than_its_threads_need():
    read = []
    found = mapped_ahead(str, (read.append(item) or item for item in range(1000)))
    assert next(found) == "0"
    assert len(read) < 50 + os.cpu_count()
    found.close()
