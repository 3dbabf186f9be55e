"""Rows that no model can answer, or that break the engine: each costs itself alone."""

import json
import random
from dataclasses import replace

import pytest
import torch
from tests.support import answering
from tests.support.answering import PAIRS, KilledError, lines, outputs, run

from qatune.data.requests import Question
from qatune.errors import QatuneError
from qatune.model.answering import encode
from qatune.model.scoring import score
from qatune.stages import generate
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore


@pytest.fixture(autouse=True, params=["continuous", "static"])
def _engine(request, monkeypatch):
    monkeypatch.setitem(answering.SETTINGS, "engine", request.param)


def json_lines(data):
    return [json.loads(line) for line in data.splitlines()]


def poisoned(monkeypatch, harm, *ids):
    """Let the engine do this where one of these rows is in its batch."""

    def failing(batch):
        if any(request.id in ids for request in batch):
            harm()

    answering.before_batches(monkeypatch, failing)


def texts(store):
    """What was answered to each question, by the base and by the adapter."""
    return {
        row["question"]: (row["base"]["text"], row["adapter"]["text"])
        for row in lines(store, "parts/")
    }


def exhausting():
    torch.empty(1 << 50, dtype=torch.uint8)


def raising():
    raise RuntimeError("poison")


def test_rows_that_cannot_be_answered_are_errors_and_lose_no_other(llama, llama_adapter):
    positions = answering.load(llama).positions
    bad = [
        ("word " * positions, "too long"),
        ("\x1b[31mred", "control"),
        ("fits", "x " * positions),
    ]
    store = MemoryStore()
    stage = run(store, llama, llama_adapter, [*PAIRS[:2], *bad, *PAIRS[2:]], chunk_rows=4)
    errors = {row["id"]: row["code"] for row in lines(store, "errors/")}
    assert errors == {"3": "context_full", "4": "control_characters"}
    rows = {row["id"]: row for row in lines(store, "parts/")}
    assert len(rows) == 8
    assert rows["5"]["base"]["nll"] is None  # prompt and expected answer exceed the positions
    assert stage.counters["errors"] == 2
    plain = MemoryStore()
    run(plain, llama, llama_adapter)
    good = [row["base"]["text"] for row in lines(plain, "parts/")]
    assert [rows[name]["base"]["text"] for name in ("1", "2", *"6789", "10")] == good


def test_an_exception_costs_the_row_that_provokes_it(llama, monkeypatch):
    expected = MemoryStore()
    run(expected, llama, None, adapter="none")
    poisoned(monkeypatch, raising, "5")
    store = MemoryStore()
    run(store, llama, None, adapter="none")
    (error,) = lines(store, "errors/")
    assert (error["id"], error["question"], error["code"], error["message"]) == (
        "5", "five", "engine_error", "poison",
    )  # fmt: skip
    assert error in json_lines(outputs(store)["parts/part-00000-00001.jsonl"])
    good = [row for row in lines(expected, "parts/") if row["id"] != "5"]
    assert [row["base"]["text"] for row in lines(store, "parts/")] == [
        row["base"]["text"] for row in good
    ]


def test_a_row_that_cannot_be_scored_is_an_error_alone(llama, monkeypatch):
    def failing(model, rows, **settings):
        if any(len(ids) - start > 30 for ids, start in rows):
            raise RuntimeError("poison")
        return score(model, rows, **settings)

    monkeypatch.setattr("qatune.model.answering.score", failing)
    store = MemoryStore()
    run(store, llama, None, adapter="none")
    assert {row["id"] for row in lines(store, "errors/")} == {
        str(number)
        for number, (_, answer) in enumerate(PAIRS, start=1)
        if len(answering.load_tokenizer(llama)(" " + answer)["input_ids"]) > 30
    }
    assert len(lines(store, "errors/")) + len(lines(store, "parts/")) == 7


def test_a_chunk_of_poison_alone_is_no_broken_engine(llama, monkeypatch):
    poisoned(monkeypatch, raising, "4", "5", "6")
    store = MemoryStore()
    run(store, llama, None, adapter="none")
    assert [row["id"] for row in lines(store, "errors/")] == ["4", "5", "6"]
    assert [row["id"] for row in lines(store, "parts/")] == ["1", "2", "3", "7"]


@pytest.mark.parametrize("exhaust", [exhausting, lambda: bytearray(1 << 62)])
def test_a_row_that_takes_all_memory_is_an_error_alone(llama, monkeypatch, exhaust):
    poisoned(monkeypatch, exhaust, "5")
    store = MemoryStore()
    run(store, llama, None, adapter="none")
    (error,) = lines(store, "errors/")
    assert (error["id"], error["code"]) == ("5", "out_of_memory")
    assert [row["id"] for row in lines(store, "parts/")] == ["1", "2", "3", "4", "6", "7"]


def test_a_row_whose_error_differs_each_time_is_settled_by_the_first(llama, monkeypatch):
    """Killed after the part, before its errors are shown apart: nothing is computed again."""
    poisoned(monkeypatch, raising, "5")
    store = MemoryStore()
    stage = answering.prepared(store, llama, None, PAIRS, adapter="none")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "create", answering.killed)
        with pytest.raises(KilledError):
            generate.run(stage)
    assert not [name for name in outputs(store) if name.startswith("errors/")]
    answering.before_batches(monkeypatch, answering.killed)
    generate.run(StageRun.open(store, answering.RUN, "generate", stage.recipe))
    (error,) = lines(store, "errors/")
    assert (error["id"], error["message"]) == ("5", "poison")


def test_an_engine_that_fails_for_every_row_stops_the_stage(llama, monkeypatch):
    def failing(batch):
        raise RuntimeError("no kernel image")

    answering.before_batches(monkeypatch, failing)
    store = MemoryStore()
    with pytest.raises(QatuneError, match=r"fails for every question.*no kernel image"):
        run(store, llama, None, adapter="none")
    assert outputs(store) == {}


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_poison_of_every_kind_costs_itself_alone(llama, llama_adapter, monkeypatch, seed):
    """In one batch with good rows; in turn, and in other orders."""
    plain = MemoryStore()
    run(plain, llama, llama_adapter, PAIRS[:6], chunk_rows=6, batch_size=16)
    positions = answering.load(llama).positions

    def with_foreign_id(row: Question, *more):
        encoded = encode(row, *more)
        foreign = {"prompt_ids": [*encoded.prompt_ids, 10**6]}
        return replace(encoded, **foreign) if row.question == "foreign" else encoded

    kinds = {
        "over-long " * positions: "context_full",
        "foreign": "out_of_vocabulary",
        " \n\t": "empty_question",
        "a \x00 and a \x1b": "control_characters",
        "breaks the engine": "engine_error",
        "takes all memory": "out_of_memory",
    }
    pairs = [pair for kind, good in zip(kinds, PAIRS, strict=False) for pair in (good, (kind, "x"))]
    if seed is not None:
        random.Random(seed).shuffle(pairs)
    ids = {question: str(number) for number, (question, _) in enumerate(pairs, start=1)}
    monkeypatch.setattr(answering, "encode", with_foreign_id)
    poisoned(monkeypatch, raising, ids["breaks the engine"])
    poisoned(monkeypatch, exhausting, ids["takes all memory"])
    store = MemoryStore()
    stage = run(store, llama, llama_adapter, pairs, chunk_rows=len(pairs), batch_size=16)
    failed = {row["question"]: row["code"] for row in lines(store, "errors/")}
    assert failed == kinds
    assert texts(store) == texts(plain)
    counters = stage.counters
    assert (counters["rows"], counters["answers"], counters["errors"]) == (12, 6, 6)
