"""Damaged objects of a run: each is read as what was written, or refused in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutated import FUZZED, mutated, outcome

from qatune import recipe
from qatune.data import answers
from qatune.data.records import Answer, AnsweredRow, FailedRow
from qatune.data.shards import Layout, Shard
from qatune.store import artifacts, checkpoints, manifests, mirror, shard_records, shards
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore

RUN, COMMIT = "r", "c" * 40
OURS = recipe.validate({"model": {"source": "./m"}, "data": {"source": "qa.csv"},
                        "generate": {"adapter": "none", "input": "q.jsonl"}})  # fmt: skip
CHECKPOINTS = "runs/r/train/checkpoints/"
PROGRESS = "runs/r/generate/progress-00000.json"


def a_run():
    """Return a store with one object of every kind that a later stage parses."""
    store = MemoryStore()
    StageRun.open(store, RUN, "preprocess", OURS).finish()
    stage = StageRun.open(store, RUN, "generate", OURS)
    shards.divide(stage, 2, Layout(3, 2))
    for number in range(2):
        part = StageRun.open(store, RUN, "generate", OURS)
        part.create(Shard(number, 2).part(number), b"{}\n")
        shard_records.save_record(part, Shard(number, 2))
    return store


STORE = a_run()
RECORD = f"runs/{RUN}/generate/shards/00001.json"
MANIFEST = manifests.manifest_key(RUN, "preprocess")
DIVISION = f"runs/{RUN}/generate/shards.json"


def with_object(key, data):
    """Return a copy of the run in which one object has another content."""
    store = MemoryStore()
    for each in STORE.keys(""):
        store.create(each, STORE.read(each))
    store.replace(key, data)
    return store


@FUZZED
@given(st.one_of(mutated(STORE.read(MANIFEST)), st.binary(max_size=60)))
def test_a_manifest_is_the_one_that_was_written_or_is_refused(data):
    store = with_object(MANIFEST, data)
    found = outcome(lambda: manifests.load(store, RUN, "preprocess"))
    assert (found is not None) == (data == STORE.read(MANIFEST))


@FUZZED
@given(st.one_of(mutated(STORE.read(RECORD)), st.binary(max_size=60)))
def test_a_shard_s_record_is_the_one_that_was_written_or_is_refused(data):
    store = with_object(RECORD, data)
    stage = StageRun.open(store, RUN, "generate", OURS)
    found = outcome(lambda: shard_records.load_records(stage, 2))
    assert (found is not None) == (data == STORE.read(RECORD))


@FUZZED
@given(st.one_of(mutated(STORE.read(DIVISION)), st.binary(max_size=60)))
def test_a_division_is_read_or_refused(data):
    store = with_object(DIVISION, data)
    outcome(lambda: shards.load_division(store, RUN))
    outcome(lambda: shards.check_number(store, RUN, 2))


@FUZZED
@given(mutated(recipe.canonical(OURS)))
def test_a_damaged_recipe_of_a_run_stops_its_stages(data):
    """Unless the damage is none: a space more, a default left out."""
    store = with_object(f"runs/{RUN}/recipe.json", data)
    found = outcome(lambda: artifacts.bound_recipe(store, RUN))
    going_on = outcome(lambda: artifacts.check_recipe(store, RUN, OURS) or "same")
    assert (going_on == "same") == (found == OURS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the objects of two checkpoints, and a folder to fetch into."""
    folder = tmp_path_factory.mktemp("checkpoints")
    store = MemoryStore()
    for step in (1, 2):
        (folder / f"{step}/inner").mkdir(parents=True)
        (folder / f"{step}/weights").write_bytes(b"weights of %d" % step)
        (folder / f"{step}/inner/state").write_bytes(b"state")
        checkpoints.save(store, CHECKPOINTS, step, folder / str(step), "this")
    return {key: store.read(key) for key in store.keys("")}, folder / "fetched"


@FUZZED
@given(data=st.data())
def test_the_newest_checkpoint_is_whole_or_passed_over(saved, data):
    objects, folder = saved
    store = MemoryStore()
    for key, content in objects.items():
        store.create(key, content)
    key = data.draw(st.sampled_from(sorted(objects)))
    changed = data.draw(st.one_of(mutated(objects[key]), st.binary(max_size=30)))
    store.replace(key, changed)
    damaged = {1, 2} if changed != objects[key] else set()
    damaged = {step for step in damaged if f"step-0000000{step}" in key}
    found, path = checkpoints.newest(store, CHECKPOINTS, folder, "this")
    assert found.step == (1 if 2 in damaged else 2)
    assert (path / "weights").read_bytes() == b"weights of %d" % found.step


MIRRORED = json.dumps(
    {"format": 1, "repo": "a/b", "commit": COMMIT,
     "files": [{"key": "config.json", "sha256": "0" * 64, "size": 3}]}
).encode()  # fmt: skip


@FUZZED
@given(st.one_of(mutated(MIRRORED), st.binary(max_size=60)))
def test_a_mirror_s_list_is_read_or_refused(data):
    store = MemoryStore()
    store.create(f"models/a/b@{COMMIT}/mirror.json", data)
    found = outcome(lambda: mirror.find(store, "a/b", COMMIT))
    if found is not None:
        assert all(ref.key.startswith(found.folder) for ref in found.files)


ROWS = [
    AnsweredRow("1", "Q\n\u2028é", "A", 2, 3, Answer("x\r", 1, "stop", 0.5), None),
    FailedRow("2", None, "too_long", "it is"),
    AnsweredRow("3", "Q", None, None, 3, *[Answer("", 1, "length", None)] * 2),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNTS = st.integers(0, 2**40)
ANSWERS = st.builds(
    Answer,
    TEXTS,
    COUNTS,
    st.sampled_from(["stop", "length"]),
    st.none() | st.floats(0, 1e9, allow_subnormal=False),
)
OUTCOMES = st.one_of(
    st.builds(AnsweredRow, TEXTS, TEXTS, st.none() | TEXTS, st.none() | COUNTS, COUNTS,
              ANSWERS, st.none() | ANSWERS),
    st.builds(FailedRow, TEXTS, st.none() | TEXTS, TEXTS, TEXTS),
)  # fmt: skip


@FUZZED
@given(st.lists(OUTCOMES, max_size=6))
def test_a_part_is_read_back_as_it_was_written(rows):
    assert answers.decode(answers.encode(rows)) == rows


@FUZZED
@given(st.one_of(mutated(answers.encode(ROWS)), st.binary(max_size=60)))
def test_a_damaged_part_is_rows_or_a_value_error(data):
    try:
        rows = answers.decode(data)
    except ValueError:
        return
    assert len(rows) == sum(1 for line in data.split(b"\n") if line)
    written = answers.encode(rows)
    assert answers.encode(answers.decode(written)) == written
