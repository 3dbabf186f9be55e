"""What was forged with all its hashes is found by what the objects hold."""

import hashlib
import json
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.support.verifiable import (
    MINE,
    OTHER,
    as_lines,
    copied,
    fault,
    flipped,
    forged,
    json_lines,
    loaded,
    replaced,
)

from qatune.store import manifests
from qatune.store.memory import MemoryStore
from qatune.store.shard_records import Record
from qatune.store.verification import parts, verify

PARTS = f"runs/{MINE}/generate/parts"
PART = f"{PARTS}/part-00001-00001.jsonl"
RECORD = f"runs/{MINE}/generate/shards/00001.json"
ASKED = f"runs/{OTHER}/generate/parts"
FAILED = f"runs/{OTHER}/generate/errors/part-00000-00000.jsonl"
TRAIN_ROWS = f"runs/{MINE}/preprocess/train-00000.parquet"
TEST_ROWS = f"runs/{MINE}/preprocess/test-00000.parquet"
METRICS = f"runs/{MINE}/train/metrics.jsonl"


@pytest.fixture
def store(finished):
    return copied(finished, MemoryStore())


def record(store):
    """Return the record of the shard that wrote PART."""
    return manifests.parse(store.read(RECORD), RECORD, Record)


def with_record(store, **changed):
    replaced(store, RECORD, manifests.encode(record(store).model_copy(update=changed)))


def test_what_forging_leaves_alone_is_still_as_written(store):
    forged(store, MINE, {PART: store.read(PART)})
    list(verify(store, MINE))


def row_in_place_of_another(store):
    rows = json_lines(store, PART)
    forged(store, MINE, {PART: as_lines([rows[0], rows[0], rows[2]])})
    return PART, f"it has row '{rows[0]['id']}' in place of '{rows[1]['id']}'"


def row_too_many(store):
    rows = json_lines(store, PART)
    division = f"runs/{MINE}/generate/shards.json"
    replaced(store, division, store.read(division).replace(b'"rows": 10', b'"rows": 11'))
    counters = {"generate": {"rows": 11, "answers": 11}, 1: {"rows": 5, "answers": 5}}
    forged(store, MINE, {PART: as_lines([rows[0], *rows])}, counters)
    return "preprocess/manifest.json", "says rows_test 10, and its outputs hold 11"


def row_that_moved(store):
    others = f"{PARTS}/part-00000-00000.jsonl"
    ours, theirs = json_lines(store, PART), json_lines(store, others)
    forged(store, MINE, {PART: as_lines(ours[1:]), others: as_lines([*theirs, ours[0]])})
    return others, "the ledger is wrong: it has 4 rows, and its chunk 3"


def part_that_is_no_json(store):
    forged(store, MINE, {PART: store.read(PART).replace(b'{"id"', b'{"id', 1)})
    return PART, "not the lines of JSON"


def row_without_an_answer(store):
    rows = json_lines(store, PART)
    forged(store, MINE, {PART: as_lines([*rows[:2], {"id": rows[2]["id"]}])})
    return PART, "neither an answered row nor a failed one"


def answer_that_became_an_error(store):
    rows = json_lines(store, PART)
    failed = {"id": rows[2]["id"], "question": None, "code": "null", "message": ""}
    forged(store, MINE, {PART: as_lines([*rows[:2], failed])})
    return "generate/errors/part-00001-00001.jsonl", "does not hold the failed rows of its part"


def counter_of_answers(store):
    forged(store, MINE, {}, {"generate": {"answers": 9}, 1: {"answers": 3}})
    return RECORD, "says answers 3, and the parts hold 4"


def part_that_no_record_names(store):
    with_record(store, outputs=[ref for ref in record(store).outputs if ref.key != PART])
    return PART, "no record names this part"


def record_of_other_parents(store):
    with_record(store, parents={**record(store).parents, "train": "0" * 64})
    return RECORD, "another recipe or other inputs"


def manifest_without_a_part(store):
    manifest = loaded(store, MINE, "generate")
    kept = [ref for ref in manifest.outputs if ref.key != PART]
    store.delete(f"runs/{MINE}/evaluate/manifest.json")
    key = manifests.manifest_key(MINE, "generate")
    replaced(store, key, manifests.encode(manifest.model_copy(update={"outputs": kept})))
    return PART, "no manifest of this run names it"


def manifest_with_another_part(store):
    before = store.read(RECORD)
    forged(store, MINE, {PART: as_lines(reversed(json_lines(store, PART)))})
    ours = record(store).parents
    replaced(store, RECORD, before)
    with_record(store, parents=ours)
    return PART, "the manifest says of it what the shards' records do not"


def training_row_twice(store):
    rows = parquet_rows(store, TRAIN_ROWS)
    again = pa.concat_tables([rows, rows.slice(3, 1)])
    forged(store, MINE, {TRAIN_ROWS: as_parquet(again)}, {"preprocess": {"rows_train": 31}})
    return TRAIN_ROWS, "is there twice in train and test rows"


def held_out_row_that_was_trained_on(store):
    """Its id is another one: where it comes from is not."""
    train, test = parquet_rows(store, TRAIN_ROWS), parquet_rows(store, TEST_ROWS)
    row = train.slice(0, 1).set_column(0, train.schema.field(0), pa.array(["new"]))
    both = pa.concat_tables([test.slice(1), row])
    forged(store, MINE, {TEST_ROWS: as_parquet(both)})
    return TEST_ROWS, "is there twice in train and test rows"


def rows_that_are_missing(store):
    forged(store, MINE, {TRAIN_ROWS: as_parquet(parquet_rows(store, TRAIN_ROWS).slice(1))})
    return "preprocess/manifest.json", "says rows_train 30, and its outputs hold 29"


def parquet_of_something_else(store):
    forged(store, MINE, {TRAIN_ROWS: as_parquet(pa.table({"id": ["1"]}))})
    return TRAIN_ROWS, "has other columns"


def rows_that_are_no_parquet(store):
    forged(store, MINE, {TRAIN_ROWS: store.read(TRAIN_ROWS)[:-10]})
    return TRAIN_ROWS, "not Parquet"


def rejected_row_that_is_missing(store):
    key = f"runs/{MINE}/preprocess/rejected.jsonl"
    forged(store, MINE, {key: as_lines(json_lines(store, key)[1:])})
    return "preprocess/manifest.json", "says rejected_duplicate 2, and its outputs hold 1"


def step_that_is_missing(store):
    steps = [line for line in json_lines(store, METRICS) if line["step"] != 2]
    forged(store, MINE, {METRICS: as_lines(steps)})
    return METRICS, "has step 3 where step 2 belongs"


def steps_that_were_cut_off(store):
    steps = [line for line in json_lines(store, METRICS) if line["step"] < 4]
    forged(store, MINE, {METRICS: as_lines(steps)})
    return "train/manifest.json", "says steps 4, and its outputs hold 3"


def measured_rows(store):
    key = f"runs/{MINE}/evaluate/metrics.json"
    metrics = json.loads(store.read(key)) | {"rows": 9}
    forged(store, MINE, {key: json.dumps(metrics).encode()}, {"evaluate": {"rows": 9}})
    return "generate/manifest.json", "says answers 10, and its outputs hold 9"


@pytest.mark.parametrize(
    "forge",
    [
        row_in_place_of_another,
        row_too_many,
        row_that_moved,
        part_that_is_no_json,
        row_without_an_answer,
        answer_that_became_an_error,
        counter_of_answers,
        part_that_no_record_names,
        record_of_other_parents,
        manifest_without_a_part,
        manifest_with_another_part,
        training_row_twice,
        held_out_row_that_was_trained_on,
        rows_that_are_missing,
        parquet_of_something_else,
        rows_that_are_no_parquet,
        rejected_row_that_is_missing,
        step_that_is_missing,
        steps_that_were_cut_off,
        measured_rows,
    ],
)
def test_what_was_forged_with_all_its_hashes_is_named(forge, store):
    key, what = forge(store)
    message = fault(store)
    assert f"{key}: " in message
    assert what in message


def parquet_rows(store, key):
    return parquet.read_table(pa.BufferReader(store.read(key)))


def as_parquet(table):
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def question_twice(store):
    """Of questions from elsewhere the store has the number only, and that each was one."""
    first, second = f"{ASKED}/part-00000-00001.jsonl", f"{ASKED}/part-00000-00002.jsonl"
    rows = [*json_lines(store, second)[:2], json_lines(store, first)[0]]
    forged(store, OTHER, {second: as_lines(rows)})
    return second, f"the ledger is wrong: row '{rows[2]['id']}' is there twice"


def error_that_says_something_else(store):
    forged(store, OTHER, {FAILED: store.read(FAILED).replace(b"question", b"quesTion")})
    return FAILED, "does not hold the failed rows of its part"


def error_without_a_failed_row(store):
    """The row got an answer in the part, and is still among the errors."""
    part = f"{ASKED}/part-00000-00000.jsonl"
    rows = json_lines(store, part)
    rows[2] = rows[0] | {"id": rows[2]["id"]}
    forged(store, OTHER, {part: as_lines(rows)})
    return FAILED, "does not hold the failed rows of its part"


@pytest.mark.parametrize(
    "forge", [question_twice, error_that_says_something_else, error_without_a_failed_row]
)
def test_the_ledger_of_questions_from_elsewhere(forge, store):
    key, what = forge(store)
    message = fault(store, OTHER)
    assert f"{key}: " in message
    assert what in message


def test_a_loss_that_is_no_number_is_no_fault(store):
    """Python writes it as NaN, which is not JSON to everyone."""
    rows = json_lines(store, PART)
    rows[1]["base"]["nll"] = float("nan")
    forged(store, MINE, {PART: as_lines(rows)})
    list(verify(store, MINE))


MEMORY = """
import resource, sys
from qatune.store.folder import FolderStore
from qatune.store.objects import ObjectRef
from qatune.store.verification.objects import check
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
check(FolderStore(sys.argv[1]), [ObjectRef("large", sys.argv[2], int(sys.argv[3]))])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_does_not_grow_with_an_object(tmp_path):
    size, block = 240 * 1024 * 1024, bytes(range(256)) * 4096
    sha256 = hashlib.sha256()
    with (tmp_path / "large").open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
            sha256.update(block)
    command = [sys.executable, "-c", MEMORY, str(tmp_path), sha256.hexdigest(), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < size / 3
    command[-2] = flipped(sha256.hexdigest().encode(), 3).decode()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "large: damaged: its SHA-256" in done.stderr


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (10**6, 64)])
def test_parts_are_held_a_few_at_a_time(store, monkeypatch, limit, most):
    sizes = []
    read = parts._read

    def counted(store, requests, window):
        sizes.append(len(window))
        return read(store, requests, window)

    monkeypatch.setattr(parts, "_WINDOW_BYTES", limit)
    monkeypatch.setattr(parts, "_read", counted)
    whole = dict(verify(store, MINE))["generate"].counted
    assert whole["rows"] == 10
    assert max(sizes) == min(most, sum(sizes))


def test_a_part_is_read_in_blocks(store, monkeypatch):
    monkeypatch.setattr(parts, "_BLOCK_BYTES", 2000)
    assert dict(verify(store, MINE))["generate"].counted["answers"] == 10
