import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from qatune.config import Columns
from qatune.data import readers
from qatune.data.readers import read_rows
from qatune.data.records import Rejected, SourceRow
from qatune.errors import BadDataError

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def read(data, name="x.csv", **columns):
    return list(read_rows(io.BytesIO(data), name, name, Columns(**columns)))


def reasons(data, name="x.csv", **columns):
    return [
        row.reason if isinstance(row, Rejected) else "ok" for row in read(data, name, **columns)
    ]


def csv_bytes(rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def parquet_bytes(columns, **options):
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


SMALL = {
    ".csv": csv_bytes([["question", "answer"], ["Q1", "A1"], ["Q2", "A\n2"]]),
    ".jsonl": b'{"question": "Q1", "answer": "A1"}\n{"question": "Q2", "answer": "A\\n2"}',
    ".parquet": parquet_bytes({"question": ["Q1", "Q2"], "answer": ["A1", "A\n2"]}),
}

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(str.strip)


@pytest.mark.parametrize("archive", PACK)
@pytest.mark.parametrize("form", SMALL)
def test_every_format_in_every_archive(form, archive):
    name = f"x{form}{archive}"
    assert read(PACK[archive](SMALL[form]), name) == [
        SourceRow(name, 1, "Q1", "A1"),
        SourceRow(name, 2, "Q2", "A\n2"),
    ]


@given(st.lists(st.tuples(texts, texts)))
def test_what_the_csv_module_writes_is_read_back(rows):
    found = read(csv_bytes([["question", "answer"], *rows]))
    assert [(row.question, row.answer) for row in found] == rows
    assert [row.row for row in found] == list(range(1, len(rows) + 1))


@given(st.lists(st.tuples(texts, texts), min_size=1))
def test_json_lines_are_read_back(rows):
    lines = [json.dumps({"question": q, "answer": a}, ensure_ascii=False) for q, a in rows]
    found = read("\n".join(lines).encode(), "x.jsonl")
    assert [(row.question, row.answer) for row in found] == rows


@given(st.binary())
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet", "x.csv.gz", "x.csv.zst"])
def test_any_bytes_are_rows_or_bad_data(name, data):
    data = b"question,answer\n" + data if name == "x.csv" else data
    with contextlib.suppress(BadDataError):
        read(data, name)


@pytest.mark.parametrize("form", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("archive", [".gz", ".bz2", ".xz", ".zst"])
def test_a_truncated_archive_is_named(form, archive):
    data = PACK[archive](SMALL[form])
    with pytest.raises(BadDataError, match=rf"rows{form}{archive}: not a .* copy it again"):
        read(data[:-5], f"rows{form}{archive}")


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv.bz2", "x.csv.xz", "x.csv.zst", "x.parquet"])
def test_plain_text_under_another_suffix(name):
    with pytest.raises(BadDataError, match=name):
        read(SMALL[".csv"], name)


@pytest.mark.parametrize("form", [".csv", ".jsonl"])
def test_an_archive_under_a_plain_suffix(form):
    with pytest.raises(BadDataError, match="this is a gzip file"):
        read(gzip.compress(SMALL[form]), f"x{form}")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet", "x.csv.zst"])
def test_an_empty_file(name):
    with pytest.raises(BadDataError, match=f"{name}: the file is empty"):
        read(b"", name)


def test_an_unknown_suffix():
    with pytest.raises(BadDataError, match=r"x\.txt: unknown kind of file"):
        read(b"a", "x.txt")


def test_each_bad_csv_row_is_rejected_alone():
    data = (
        b"\xef\xbb\xbfquestion,answer\r\nok,fine\r\n,x\r\nx,\r\n  ,x\r\nx, \t\r\n\r\n"
        b"bad \xff,x\r\nnul \0,x\r\none\r\na,b,c\r\nlast,row"
    )
    assert reasons(data) == [
        "ok", "null", "null", "empty_question", "empty_answer", "undecodable", "nul_byte",
        "malformed", "malformed", "ok",
    ]  # fmt: skip
    assert [row.row for row in read(data)] == list(range(1, 11))


def test_each_bad_json_line_is_rejected_alone():
    lines = [
        b'{"question": "Q", "answer": "A"}', b"", b'{"question": "Q"}',
        b'{"question": null, "answer": "A"}', b'{"question": "", "answer": "A"}',
        b'{"question": "Q", "answer": " "}', b'{"question": 1, "answer": "A"}', b"[1]", b"{broken",
        b'{"question": "\xff", "answer": "A"}', b'{"question": "\\ud800", "answer": "A"}',
        b'{"question": "\\u0000", "answer": "A"}', b"[" * 100_000,
    ]  # fmt: skip
    assert reasons(b"\n".join(lines), "x.jsonl") == [
        "ok", "null", "null", "empty_question", "empty_answer", "malformed", "malformed",
        "malformed", "undecodable", "undecodable", "nul_byte", "malformed",
    ]  # fmt: skip


def test_each_bad_parquet_row_is_rejected_alone():
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    questions = pa.concat_arrays([pa.array(["Q", None, " ", "a\0b"]), bad])
    data = parquet_bytes({"question": questions, "answer": ["A"] * 5, "other": [1] * 5})
    assert reasons(data, "x.parquet") == ["ok", "null", "empty_question", "nul_byte", "undecodable"]


def test_parquet_ids_may_be_numbers_and_texts_dictionaries():
    columns = {
        "n": [7, 8],
        "question": pa.array(["Q", "R"]).dictionary_encode(),
        "answer": ["A", "B"],
    }
    found = read(parquet_bytes(columns), "x.parquet", id="n")
    assert [(row.id, row.question) for row in found] == [("7", "Q"), ("8", "R")]


def test_parquet_columns_of_another_type_are_refused():
    with pytest.raises(BadDataError, match="'answer' is int64, not text"):
        read(parquet_bytes({"question": ["Q"], "answer": [1]}), "x.parquet")


def test_json_ids_may_be_numbers():
    found = read(b'{"n": 7, "question": "Q", "answer": "A"}', "x.jsonl", id="n")
    assert found == [SourceRow("x.jsonl", 1, "Q", "A", "7")]


def test_columns_of_any_name_and_order():
    found = read(b"key,a b,junk,Q\nk1,A1,x,Q1\n,A2,x,Q2\n", question="Q", answer="a b", id="key")
    assert found == [
        SourceRow("x.csv", 1, "Q1", "A1", "k1"),
        Rejected("x.csv", 2, "null", "Q2", "A2"),
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", b"question,response\nQ,A\n"),
        ("x.jsonl", b'{"question": "Q", "response": "A"}\n'),
        ("x.parquet", parquet_bytes({"question": ["Q"], "response": ["A"]})),
    ],
)
def test_a_missing_column_is_named_with_those_that_exist(name, data):
    with pytest.raises(BadDataError) as caught:
        read(data, name)
    assert str(caught.value) == (
        f"column 'answer' not found in {name}; it has: question, response; set data.columns.answer"
    )


def test_a_column_that_is_there_twice():
    with pytest.raises(BadDataError, match="'answer' is there twice"):
        read(b"question,answer,answer\nQ,A,B\n")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'question,answer\nQ,A\nQ,"A\nB\nC,D\n', 3),
        (b'question,answer\nQ,A\n"Q\nQ","A\nB', 4),
        (b'question,answer\r\nQ,"A', 2),
        (b'question,"answer\nQ,A\n', 1),
    ],
)
def test_a_quote_never_closed_is_named_with_its_line(data, line):
    with pytest.raises(BadDataError, match=rf"x\.csv: the quote that opens in line {line} is"):
        read(data)


def test_a_quote_never_closed_is_found_before_memory_is_full(monkeypatch):
    monkeypatch.setattr(readers, "RECORD_BYTES", 1000)
    data = b'question,answer\nQ,A\nQ,"A\n' + b"x,y\n" * 100_000
    with pytest.raises(BadDataError, match=r"x\.csv: the record that starts in line 3 goes on"):
        read(data)


def test_a_json_line_beyond_the_bound_is_rejected_alone(monkeypatch):
    monkeypatch.setattr(readers, "RECORD_BYTES", 100)
    long = json.dumps({"question": "Q" * 350, "answer": "A"}).encode()
    short = b'{"question": "Q", "answer": "A"}'
    assert reasons(b"\n".join([short, long, short]), "x.jsonl") == ["ok", "malformed", "ok"]


def test_one_json_array_is_no_json_lines():
    with pytest.raises(BadDataError, match="one object a line"):
        read(b'[{"question": "Q"}]', "x.json")


def test_a_row_with_a_cell_of_50_megabytes_is_one_row():
    data = b'question,answer\nQ,"' + b"a" * 50_000_000 + b'"\nR,B\n'
    assert [len(row.answer) for row in read(data)] == [50_000_000, 1]


TESTED = [("Q1", "A1", "assert f() == 1\nassert f"), ("Q2", "A2", None), ("Q3", "A3", " \n")]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
@pytest.mark.parametrize("with_id", [True, False])
def test_tests_are_read_where_a_column_of_them_is_named(name, with_id):
    fields = ("question", "answer", "tests", "n")
    rows = [(*row, str(number)) for number, row in enumerate(TESTED)]
    lines = [dict(zip(fields, row, strict=True)) for row in rows]
    data = {
        "x.csv": csv_bytes([fields, *rows]),
        "x.jsonl": "\n".join(map(json.dumps, lines)).encode(),
        "x.parquet": parquet_bytes({field: [line[field] for line in lines] for field in fields}),
    }[name]
    columns = {"id": "n"} if with_id else {}
    found = read(data, name, tests="tests", **columns)
    assert [row.tests for row in found] == [TESTED[0][2], None, None]
    assert [row.id for row in found] == (["0", "1", "2"] if with_id else [None] * 3)
    assert {row.tests for row in read(data, name, **columns)} == {None}
    with pytest.raises(BadDataError, match=r"column 'proofs' not found.*set data.columns.tests"):
        read(data, name, tests="proofs")


@pytest.mark.parametrize(
    ("tests", "reason"), [(7, "malformed"), (["a"], "malformed"), ("\ud800", "undecodable"),
                          ("a\0", "nul_byte")],
)  # fmt: skip
def test_tests_are_text(tests, reason):
    line = json.dumps({"question": "Q", "answer": "A", "tests": tests}).encode()
    assert reasons(line, "x.jsonl", tests="tests") == [reason]
    assert reasons(line, "x.jsonl") == ["ok"]
