"""Damaged rows, batches and recipes: each gives rows and values, or one line that says why not."""

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tests.support.mutated import FUZZED, PROVEN, assert_one_line, mutated, outcome

from qatune import recipe
from qatune.config import Columns
from qatune.data import openai_batch, readers
from qatune.data.readers import read_rows
from qatune.data.records import Rejected, SourceRow
from qatune.data.requests import Question
from qatune.errors import BadDataError, BadRecipeError

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
CSV = (
    b'\xef\xbb\xbfquestion,answer,id\r\nQ1,"A, ""1""\r\n\xc3\xa9",1\r\nQ2,A2,2\r\n\r\nQ3,,3\r\n',
    b"question,answer,id\nQ1,A1,1\nQ2,A2,2\n",
)
JSONL = (
    b'{"question": "Q1", "answer": "A1", "id": 1}\n\n{"question": "Q2", "answer": null}\n',
    b'\xef\xbb\xbf{"question": "\\u00e9\\ud83d\\ude00", "answer": "A", "id": "x"}\r\n{}\r\n',
)


def parquet_bytes(**options):
    rows = range(12)
    columns = {
        "question": pa.array([f"Q{row}" for row in rows]).dictionary_encode(),
        "answer": [f"A{row} é" for row in rows],
        "id": list(rows),
        "more": [[{"a": [1, 2]}]] * len(rows),
    }
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


PARQUET = tuple(parquet_bytes(compression=each) for each in ("none", "snappy", "zstd"))
COLUMNS = st.builds(Columns, id=st.sampled_from([None, "id"]))


def rows_of(data, name, columns=None):
    return list(read_rows(io.BytesIO(data), name, name, columns or Columns()))


def assert_records(rows, count=None):
    """Hold rows against what all readers promise: numbered from 1, usable or with a reason."""
    assert [row.row for row in rows] == list(range(1, len(rows) + 1))
    assert count is None or len(rows) == count
    for row in rows:
        if isinstance(row, SourceRow):
            assert row.question.strip()
            assert row.answer.strip()
            assert "\0" not in row.question + row.answer + (row.id or "x")
            assert (row.question + row.answer + (row.id or "x")).encode()
        else:
            assert row.reason


@settings(FUZZED, max_examples=300)
@given(mutated(*CSV), COLUMNS)
def test_each_record_of_a_csv_file_is_one_row(data, columns):
    rows = outcome(lambda: rows_of(data, "x.csv", columns))
    if rows is not None:
        text = data.decode("utf-8-sig", errors="surrogateescape")
        header, *records = filter(None, csv.reader(io.StringIO(text, newline="")))
        assert_records(rows, len(records))
        for row, record in zip(rows, records, strict=True):
            if isinstance(row, SourceRow):
                assert len(record) == len(header)
                assert row.question == record[header.index("question")]
                assert row.answer == record[header.index("answer")]


@settings(FUZZED, max_examples=400)
@given(mutated(*JSONL), COLUMNS)
def test_each_line_of_a_jsonl_file_is_one_row(data, columns):
    rows = outcome(lambda: rows_of(data, "x.jsonl", columns))
    if rows is not None:
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        lines = [line for line in lines if line.strip()]
        assert_records(rows, len(lines))
        for row, line in zip(rows, lines, strict=True):
            if isinstance(row, SourceRow):
                fields = json.loads(line)
                assert (row.question, row.answer) == (fields["question"], fields["answer"])


@settings(FUZZED, max_examples=400)
@given(mutated(*PARQUET), COLUMNS)
def test_a_damaged_parquet_file_is_rows_or_bad_data(data, columns):
    rows = outcome(lambda: rows_of(data, "x.parquet", columns))
    if rows is not None:
        assert_records(rows)


@pytest.mark.parametrize("name", [name for name in PACK if name])
def test_a_damaged_archive_is_rows_or_bad_data(name):
    @settings(FUZZED, max_examples=60)
    @given(mutated(*[PACK[name](data) for data in (*CSV, *JSONL, *PARQUET)]), st.data())
    def damaged(data, drawn):
        form = drawn.draw(st.sampled_from([".csv", ".jsonl", ".parquet"]))
        rows = outcome(lambda: rows_of(data, f"x{form}{name}"))
        if rows is not None:
            assert_records(rows)

    damaged()


JUNK = st.one_of(mutated(*JSONL, *CSV), st.binary(max_size=40)).map(
    lambda data: b"".join(data.split())
)


@PROVEN
@given(JUNK)
def test_a_line_of_junk_takes_no_other_line_of_jsonl_with_it(junk):
    good = b'{"question": "Q", "answer": "A"}'
    rows = rows_of(b"\n".join([good, junk, good]), "x.jsonl")
    assert len(rows) == (3 if junk else 2)
    assert (rows[0].question, rows[-1].question) == ("Q", "Q")


@PROVEN
@given(JUNK.map(lambda data: data.replace(b'"', b"'")))
def test_a_line_of_junk_takes_no_other_row_of_csv_with_it(junk):
    rows = rows_of(b"question,answer\nQ,A\n" + junk + b"\nQ,A\n", "x.csv")
    assert len(rows) == (3 if junk else 2)
    assert (rows[0].question, rows[-1].question) == ("Q", "Q")


@PROVEN
@given(st.lists(st.tuples(*[st.text('x",\n é', max_size=130)] * 2), min_size=1, max_size=6))
def test_rows_longer_than_the_bound_are_never_cut(rows):
    """Each is whole, or the file is refused: half a row would pass for a row."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["question", "answer"], *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "RECORD_BYTES", 100)
        found = outcome(lambda: rows_of(text.getvalue().encode(), "x.csv"))
    if found is not None:
        assert [(row.question or "", row.answer or "") for row in found] == rows


class Endless(io.RawIOBase):
    """Goes on for ever, but not for a reader that takes far more than it may hold."""

    def __init__(self, head, piece):
        self.head, self.piece, self.count = head, piece, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self.head or (self.piece * (len(buffer) // len(self.piece)))
        data, self.head = data[: len(buffer)], b""
        buffer[: len(data)] = data
        self.count += len(data)
        assert self.count < 5_000_000
        return len(data)


@pytest.mark.parametrize("piece", [b"x", b",", b"\xc3\xa9", b"\0", b'"x', b"x\n", b"x\r\n"])
def test_a_record_without_end_is_refused_before_memory_is_full(monkeypatch, piece):
    monkeypatch.setattr(readers, "RECORD_BYTES", 100_000)
    file = Endless(b'question,answer\nQ,A\nQ,"' + b"A" * (piece == b'"x'), piece)
    with pytest.raises(BadDataError, match="the record that starts in line 3 goes on"):
        list(read_rows(file, "x.csv", "x.csv", Columns()))


def test_a_long_line_of_jsonl_is_not_held(monkeypatch):
    monkeypatch.setattr(readers, "RECORD_BYTES", 100_000)
    data = b'{"question": "Q", "answer": "A"}' + b" " * 30_000_000 + b"junk\n" + JSONL[0]
    tracemalloc.start()
    try:
        rows = rows_of(data, "x.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [isinstance(row, Rejected) for row in rows] == [True, False, True]
    assert peak < 10_000_000 + len(data)  # BytesIO shares the bytes, or copies them once


def request(**changes):
    body = {"model": "m", "messages": [{"role": "user", "content": "What?"}], "seed": 1}
    entry = {"custom_id": "a", "method": "POST", "url": openai_batch.URL, "body": body}
    return json.dumps(entry | changes).encode()


REQUESTS = (
    request(),
    request(custom_id="é\n", body={"messages": [{"role": "user", "content": [{"text": "x"}]}]}),
    request(body={"messages": [], "temperature": 0.5, "top_p": 1, "max_tokens": 9, "n": 1}),
    request(body={"tools": [], "logit_bias": {}, "response_format": {"type": "text"}}),
)
# Denormals do not exist where torch has switched them off in this process.
FLOATS = st.floats(allow_subnormal=False)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(10**300, 10**301), FLOATS,
        st.text(st.characters(), max_size=6), st.sampled_from(["\ud800", "user", "x" * 3000]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(st.characters()), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
FIELDS = st.sampled_from(
    ["messages", "model", "n", "tools", "stop", "seed", "temperature", "top_p", "max_tokens",
     "max_completion_tokens", "logit_bias", "response_format", "content", "\ud800", "x" * 9999]
)  # fmt: skip


def answered(line):
    """Read a batch with this line in its middle; hold what comes of it against its promises."""
    first, last = request(custom_id="first"), request(custom_id="last")
    rows = list(openai_batch.read([first, line, last], Question("", None, 8)))
    assert len(rows) == (3 if line.strip() else 2)
    assert (rows[0].fault, rows[-1].question) == (None, "What?")
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert row.fault or (row.question.strip() and row.max_new_tokens > 0)
        message = row.fault.message if row.fault else "none"
        assert_one_line(message)
        assert len(message) < 400
        written = openai_batch.error_line(row, model="m", code="c", message=message)
        assert json.dumps([written, row.question], ensure_ascii=False).encode()


@FUZZED
@given(mutated(*REQUESTS))
def test_a_damaged_request_is_one_row_and_no_other_row_s_fault(data):
    answered(b"".join(data.split(b"\n")))


@FUZZED
@given(st.dictionaries(FIELDS, JSON, max_size=3), st.dictionaries(FIELDS, JSON, max_size=1))
def test_a_request_of_wrong_types_is_one_row(body, message):
    asked = {"messages": [{"role": "user", "content": "x"} | message]}
    answered(request(body=asked | body))
    answered(request(body=body))
    answered(request(**body))


RECIPE = b"""\
run: {name: mine}
recipe:
  model: {source: ./model, dtype: auto}
  data: &data {source: qa.csv, columns: {question: q}, split: {test_size: 0.2}}
  train:
    learning_rate: 2e-4
    max_steps: 10
    lora: {target_modules: [q_proj, v_proj]}
store: {uri: "s3://bucket/x"}
stages: {train: {nodeSelector: {a: b}, affinity: {x: [1, 2]}, tolerations: [{key: x}]}}
"""
PLAIN = recipe.canonical(recipe.load("demo"))


def written(loaded):
    """Hold a recipe that was accepted against what every stage does with it first."""
    assert recipe.parse(recipe.canonical(loaded), "here") == loaded
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


@settings(FUZZED, max_examples=200)
@given(data=st.one_of(mutated(RECIPE), mutated(b'{"recipe": ' + PLAIN + b"}")))
def test_a_damaged_recipe_file_is_values_or_one_line(folder, data):
    path = folder / "mine.yaml"
    path.write_bytes(data)
    outcome(lambda: written(recipe.load(str(path))))


@FUZZED
@given(mutated(PLAIN))
def test_a_damaged_recipe_of_a_run_is_a_recipe_or_one_line(data):
    outcome(lambda: written(recipe.parse(data, "here")))


NAMES = st.sampled_from([
    "train.max_steps", "train.lora.target_modules", "data.source", "data.columns", "model",
    "data.split.test_size", "data.template", "", "recipe", "train.", ".", "\ud800", "generate.seed",
])  # fmt: skip
VALUES = st.one_of(
    mutated(b"[q_proj, v_proj]", b"{question: q, answer: a}", b"null", b"2e-4", b"0.2").map(
        lambda data: data.decode(errors="surrogateescape")
    ),
    st.text(st.characters(), max_size=12),
)


@settings(FUZZED, max_examples=300)
@given(NAMES, VALUES)
def test_any_field_set_to_anything_is_a_recipe_or_one_line(name, value):
    outcome(lambda: written(recipe.load("demo", [f"{name}={value}"])))


@PROVEN
@given(st.text(st.characters(), max_size=400))
def test_any_name_of_a_recipe_is_found_or_missing(name):
    with contextlib.suppress(BadRecipeError):  # it may be a file's that happens to be here
        outcome(lambda: recipe.load(name))
