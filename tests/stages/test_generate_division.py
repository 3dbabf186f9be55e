"""Into how many shards a run is divided, and of which input: settled once, the same for all."""

import pytest
from tests.support import answering
from tests.support.answering import (
    RUN,
    KilledError,
    dying_at,
    killed,
    manifest,
    outputs,
    rows_of,
    start,
)

from qatune.errors import BadRecipeError, MissingInputError
from qatune.stages import generate
from qatune.store import shards
from qatune.store.artifacts import StageRun


def test_the_number_of_shards_is_settled_by_the_first_write(stage, store, monkeypatch):
    monkeypatch.setattr(generate, "_save", dying_at(3))
    with pytest.raises(KilledError):
        start(stage, 0)
    monkeypatch.setattr(generate, "_questions", None)
    with pytest.raises(BadRecipeError) as raised:
        start(stage, 0, of=2)
    said = str(raised.value)
    assert "is divided into 3 shards, not 2: use --shards 3" in said
    assert "choose another name for the run" in said


def test_before_the_first_write_nothing_is_settled(stage, store, monkeypatch):
    monkeypatch.setattr(generate, "_save", killed)
    with pytest.raises(KilledError):
        start(stage, 0)
    monkeypatch.undo()
    for number in range(2):
        start(stage, number, of=2)
    assert manifest(store).counters["shards"] == 2


def test_of_two_first_writers_with_other_numbers_one_is_refused(stage, store, monkeypatch):
    check = shards.check_number

    def overtaken(*arguments):
        check(*arguments)
        monkeypatch.undo()
        start(stage, 1, of=2)

    monkeypatch.setattr(generate, "check_number", overtaken)
    with pytest.raises(BadRecipeError, match="divided into 2 shards, not 3"):
        start(stage, 0)
    assert {name[:16] for name in outputs(store)} == {"parts/part-00001", "errors/part-0000"}


def test_more_shards_than_chunks(stage, store, whole, monkeypatch):
    for number in (0, 1, 2, 4):
        start(stage, number, of=7)
    monkeypatch.setattr(generate, "find_model", None)  # those without rows ask for no model
    for number in (6, 5):
        start(stage, number, of=7)
    assert manifest(store) is None
    monkeypatch.undo()
    start(stage, 3, of=7)
    assert rows_of(store) == rows_of(whole)


def test_an_input_that_changes_between_shards_is_refused(llama, store, tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text("question\n" + "".join(f"{n}\n" for n in range(9)))
    ours = answering.recipe(llama, input=str(path), adapter="none")
    stage = StageRun.open(store, RUN, "generate", ours)
    start(stage, 0)
    start(stage, 1)
    path.write_text("question\n" + "".join(f"other {n}\n" for n in range(9)))
    with pytest.raises(MissingInputError, match=r"asked.csv: not the same for all shards"):
        start(stage, 2)
    for name in ("shards/00002.json", "parts/part-00002-00002.jsonl"):
        store.delete(stage.key(name))
    path.write_text("question\n" + "".join(f"{n}\n" for n in range(10)))
    with pytest.raises(MissingInputError, match="another number of rows than the 10"):
        start(stage, 2)
    assert manifest(store) is None


def test_whoever_finishes_has_read_the_same_input(llama, store, tmp_path, monkeypatch):
    path = tmp_path / "asked.csv"
    path.write_text("question\nfirst\n")
    ours = answering.recipe(llama, input=str(path), adapter="none")
    stage = StageRun.open(store, RUN, "generate", ours)
    monkeypatch.setattr(StageRun, "complete", killed)
    with pytest.raises(KilledError):
        start(stage, 0, of=1)
    monkeypatch.undo()
    path.write_text("question\nother\n")
    with pytest.raises(MissingInputError, match=r"asked.csv: not the same for all shards"):
        start(stage, 0, of=1)
