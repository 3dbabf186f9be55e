"""Questions that a person brings in a file: with or without answers, in every format."""

import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.support import answering
from tests.support.answering import lines, outputs

from qatune.errors import BadDataError
from qatune.stages import generate
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore


def from_file(store, folder, path, **settings):
    ours = answering.recipe(folder, input=str(path), **{"adapter": "none"} | settings)
    stage = StageRun.open(store, answering.RUN, "generate", ours)
    generate.run(stage)
    return stage


def test_a_file_of_questions_needs_no_answers(llama, tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text("question\nfirst\n\x01\nthird\n", encoding="utf-8")
    store = MemoryStore()
    stage = from_file(store, llama, path)
    assert stage.upstream == {}
    rows = lines(store, "parts/")
    assert [(row["id"], row["question"], row["expected"]) for row in rows] == [
        ("1", "first", None),
        ("3", "third", None),
    ]
    assert {row["base"]["nll"] for row in rows} == {None}
    assert [(row["id"], row["code"]) for row in lines(store, "errors/")] == [
        ("2", "control_characters")
    ]
    assert any("no column 'answer'" in note for note in stage.notes)
    manifest, _ = manifests.load(store, answering.RUN, "generate")
    assert str(path) in {ref.key for ref in manifest.inputs}


def test_a_file_may_have_some_answers_and_bad_rows(llama, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_bytes(
        b'{"question": "one", "answer": "1"}\n{"question": "two"}\nnot json\n'
        b'{"question": "", "answer": "4"}\n{"question": "five", "answer": ""}\n'
    )
    store = MemoryStore()
    from_file(store, llama, path)
    assert [(row["id"], row["expected"]) for row in lines(store, "parts/")] == [
        ("1", "1"),
        ("2", None),
        ("5", None),
    ]
    assert [(row["id"], row["code"]) for row in lines(store, "errors/")] == [
        ("3", "malformed"),
        ("4", "empty_question"),
    ]


def test_an_id_that_is_there_twice_is_an_error(llama, tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text("key,question\na,one\nb,two\na,three\n", encoding="utf-8")
    ours = answering.recipe(llama, input=str(path), adapter="none")
    columns = ours.data.columns.model_copy(update={"id": "key"})
    ours = ours.model_copy(update={"data": ours.data.model_copy(update={"columns": columns})})
    store = MemoryStore()
    generate.run(StageRun.open(store, answering.RUN, "generate", ours))
    assert [row["id"] for row in lines(store, "parts/")] == ["a", "b"]
    (error,) = lines(store, "errors/")
    assert (error["id"], error["question"], error["code"]) == ("row-3", "three", "duplicate_id")


def test_a_file_without_rows_or_questions_is_refused(llama, tmp_path):
    for name, text, reason in (
        ("header.csv", "question,answer\n", "no rows to answer"),
        ("other.csv", "text\nx\n", "column 'question' not found"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadDataError, match=reason):
            from_file(MemoryStore(), llama, tmp_path / name)


def request(custom_id, content, **body):
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **body}
    entry = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(entry).encode() + b"\n"


def test_openai_batches_are_read_and_written(llama, llama_adapter, tmp_path):
    path = tmp_path / "batch.jsonl"
    path.write_bytes(
        request("a", "five", max_tokens=3)
        + request("b", "five", temperature=1.0, seed=4)
        + request("a", "again")
        + b"{\n"
        + request("c", "many", n=2)
        + request("d", "word " * 300)
    )
    store = MemoryStore()
    stage = from_file(store, llama, path, adapter=str(llama_adapter))
    assert (stage.counters["answers"], stage.counters["errors"]) == (2, 4)
    parts = {row["id"]: row for row in lines(store, "parts/")}
    for one in ("base", "adapter"):
        written = lines(store, f"openai/{one}")
        assert [row["custom_id"] for row in written] == ["a", "b", "a", None, "c", "d"]
        assert [(row["error"] or {}).get("code") for row in written] == [
            None, None, "duplicate_id", "malformed", "unsupported", "context_full",
        ]  # fmt: skip
        assert all((row["response"] is None) != (row["error"] is None) for row in written)
        body = written[0]["response"]["body"]
        assert body["choices"][0]["message"]["content"] == parts["a"][one]["text"]
        assert body["usage"]["completion_tokens"] <= 3
    again = MemoryStore()
    from_file(again, llama, path, adapter=str(llama_adapter), batch_size=1)
    assert outputs(again) == outputs(store)


def test_parquet_and_compressed_files_are_read(llama, tmp_path):
    table = pa.table({"question": ["one", None, "three"], "answer": ["1", "2", None]})
    parquet.write_table(table, tmp_path / "asked.parquet")
    with gzip.open(tmp_path / "asked.jsonl.gz", "wb") as file:
        file.write(b'{"question": "one", "answer": "1"}\n{}\n{"question": "three"}\n')
    for name in ("asked.parquet", "asked.jsonl.gz"):
        store = MemoryStore()
        from_file(store, llama, tmp_path / name)
        rows = [(row["id"], row["question"], row["expected"]) for row in lines(store, "parts/")]
        assert rows == [("1", "one", "1"), ("3", "three", None)]
        assert [(row["id"], row["code"]) for row in lines(store, "errors/")] == [("2", "null")]
