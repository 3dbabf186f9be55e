"""Several workers answer one run's questions: each row once, one manifest, whatever happens."""

import itertools
import json
import os
import signal
import subprocess

import pytest
from tests.support import answering
from tests.support.answering import (
    RUN,
    SHARDED,
    KilledError,
    dying_at,
    killed,
    lines,
    manifest,
    outputs,
    rows_of,
    start,
)
from tests.support.qatune_command import QATUNE, fails

from qatune.data.shards import Shard
from qatune.errors import InterruptedRunError, MissingInputError, QatuneError
from qatune.stages import generate
from qatune.store import manifests, shard_records, shards
from qatune.store.artifacts import StageRun, is_complete
from qatune.store.memory import MemoryStore


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_in_any_order_shards_answer_what_one_would(stage, store, whole, order):
    for number in order:
        assert not is_complete(store, RUN, "generate", stage.recipe)
        start(stage, number)
    assert is_complete(store, RUN, "generate", stage.recipe)
    assert rows_of(store) == rows_of(whole)
    assert sorted(outputs(store)) == [
        "errors/part-00001-00001.jsonl",
        "parts/part-00000-00000.jsonl",
        "parts/part-00000-00003.jsonl",
        "parts/part-00001-00001.jsonl",
        "parts/part-00001-00004.jsonl",
        "parts/part-00002-00002.jsonl",
    ]
    ours, theirs = manifest(store), manifest(whole)
    assert {ref.key.split("/", 3)[-1] for ref in ours.outputs} == set(outputs(store))
    assert ours.inputs == theirs.inputs
    speed = {"prompts_per_second": 0, "tokens_per_second": 0}
    assert ours.counters | {"shards": 1} | speed == theirs.counters | {**speed}
    assert (ours.counters["shards"], ours.counters["rows"], ours.counters["errors"]) == (3, 13, 1)
    assert ours.counters["prompts_per_second"] > 0
    assert ours.counters["tokens_per_second"] > 0
    assert (ours.device, ours.versions, ours.image) == (theirs.device, theirs.versions, None)


def test_processes_that_start_together_end_with_one_manifest(llama, s3_store, whole):
    stage = answering.prepared(s3_store, llama, None, SHARDED, adapter="none")
    command = [str(QATUNE), "generate", "--run", RUN, "--store", s3_store.uri]
    place = os.environ | {"OMP_NUM_THREADS": "1", "QATUNE_SHARDS": "3"}
    workers = [
        subprocess.Popen(
            command, env=place | {"JOB_COMPLETION_INDEX": str(number)}, stderr=subprocess.PIPE
        )
        for number in range(3)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=300)
        assert worker.returncode == 0, said.decode()[-3000:]
    assert rows_of(s3_store) == rows_of(whole)
    assert shards.progress(s3_store, RUN, 3)["done"] == 13
    assert s3_store.stat(stage.key("progress.json")) is None


def test_a_shard_that_fails_leaves_the_work_of_the_others(stage, store, whole, monkeypatch):
    monkeypatch.setattr(generate, "_save", dying_at(4))
    with pytest.raises(KilledError):
        start(stage, 1)
    monkeypatch.undo()
    start(stage, 0)
    start(stage, 2)
    assert manifest(store) is None
    missing = shards.missing_rows(store, RUN, stage.recipe, 3, [1])
    assert (missing.rows, missing.spans, missing.total) == (1, [(13, 13)], 13)
    assert str(missing) == "shard 1: 1 of 13 rows have no answer: 13"
    before = outputs(store)
    start(stage, 1)
    assert rows_of(store) == rows_of(whole)
    assert before.items() <= outputs(store).items()
    assert str(shards.missing_rows(store, RUN, stage.recipe, 3, [0, 1])) == (
        "shards 0, 1: all answers are saved, but they could not be proven"
    )


@pytest.mark.parametrize("data", [b"\xff\x00bytes", b"[1]\n", b"{}\n", b'{"id": "4"}\n', b"{torn"])
def test_a_part_that_is_none_is_named(stage, store, data):
    """Whoever wrote it: the shard stops with one line, and goes on once it is gone."""
    key = f"runs/{RUN}/generate/parts/part-00001-00001.jsonl"
    store.create(key, data)
    with pytest.raises(MissingInputError, match=f"{key}: not a part that qatune wrote; delete it"):
        start(stage, 1)
    start(stage, 0)
    start(stage, 2)
    assert manifest(store) is None
    store.delete(key)
    start(stage, 1)
    assert manifest(store).counters["rows"] == 13


@pytest.mark.parametrize("retried", range(3))
def test_a_kill_between_record_and_manifest_is_mended_by_any_retry(
    stage, store, whole, monkeypatch, retried
):
    for number in range(2):
        start(stage, number)
    monkeypatch.setattr(StageRun, "complete", killed)
    with pytest.raises(KilledError):
        start(stage, 2)
    monkeypatch.undo()
    assert manifest(store) is None
    monkeypatch.setattr("qatune.model.opening.load_model", None)
    start(stage, retried)
    assert rows_of(store) == rows_of(whole)


def test_two_that_finish_at_once_agree(stage, store, monkeypatch):
    for number in range(2):
        start(stage, number)
    complete = StageRun.complete
    results = []

    def racing(self, manifest):
        monkeypatch.undo()
        start(stage, 0)  # from the same records, while shard 2 is about to write
        results.append(complete(self, manifest))
        return results[0]

    monkeypatch.setattr(StageRun, "complete", racing)
    start(stage, 2)
    assert results[0].outputs == manifest(store).outputs


def test_a_shard_that_is_recorded_does_nothing_again(stage, store, monkeypatch):
    start(stage, 1)
    before = {key: store.read(key) for key in store.keys("")}
    monkeypatch.setattr(generate, "find_model", None)
    monkeypatch.setattr(generate, "_questions", None)
    start(stage, 1)
    assert {key: store.read(key) for key in store.keys("")} == before


def test_two_pods_of_one_shard_agree(stage, store, monkeypatch):
    """As when a node that was thought dead comes back."""
    save = shard_records.save_record

    def late(opened, shard):
        monkeypatch.undo()
        start(stage, 2)
        save(opened, shard)

    monkeypatch.setattr(shard_records, "save_record", late)
    start(stage, 2)
    record = shard_records._record(store, RUN, Shard(2, 3))
    assert (record.counters["rows"], record.shards) == (3, 3)


def test_openai_answers_are_in_the_order_of_the_requests(llama, store, tmp_path):
    path = tmp_path / "batch.jsonl"
    content = [{"content": " " if n == 3 else f"question {n}", "role": "user"} for n in range(8)]
    requests = [
        {"custom_id": f"id-{n}", "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "m", "messages": [asked]}}
        for n, asked in enumerate(content)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(each) + "\n" for each in requests))
    ours = answering.recipe(llama, input=str(path), adapter="none", chunk_rows=2)
    alone = MemoryStore()
    for place, of in ((alone, 1), (store, 3)):
        stage = StageRun.open(place, RUN, "generate", ours)
        for number in reversed(range(of)):
            start(stage, number, of)
    (name,) = (name for name in outputs(store) if name.startswith("openai/"))
    assert [row["custom_id"] for row in lines(store, name)] == [f"id-{n}" for n in range(8)]
    assert outputs(store)[name] == outputs(alone)[name]
    assert name in {ref.key.split("/", 3)[-1] for ref in manifest(store).outputs}


def test_a_lost_part_is_found_before_the_manifest_is_written(stage, store, monkeypatch):
    records = shard_records.load_records

    def lossy(*arguments):
        found = records(*arguments)
        outputs = [ref for ref in found[1].outputs if "parts/part-00001-00004" not in ref.key]
        return [found[0], found[1].model_copy(update={"outputs": outputs}), found[2]]

    monkeypatch.setattr(shard_records, "load_records", lossy)
    for number in range(2):
        start(stage, number)
    with pytest.raises(QatuneError, match=r"13 of 13 rows, 1 parts missing.*part-00001-00004"):
        start(stage, 2)
    assert manifest(store) is None


def test_a_signal_stops_one_shard_alone(stage, store, monkeypatch):
    def interrupted(batch):
        if any(request.id == "13" for request in batch):
            os.kill(os.getpid(), signal.SIGTERM)

    answering.before_batches(monkeypatch, interrupted)
    with pytest.raises(InterruptedRunError, match="stopped after 3 of 4 rows"):
        start(stage, 1)
    monkeypatch.undo()
    for number in range(3):
        start(stage, number)
    assert manifest(store).counters["rows"] == 13


def test_progress_is_the_sum_of_the_shards(stage, store):
    assert shards.progress(store, RUN, 3) is None
    start(stage, 1)
    found = shards.progress(store, RUN, 3)
    assert (found["done"], found["total"], found["unit"]) == (4, 13, "rows")
    assert found["eta_seconds"] is None  # nobody is at work
    running = {"done": 1, "total": 6, "unit": "rows", "rate_per_second": 0.5}
    running |= {"eta_seconds": 10.0, "at": "2999-01-01T00:00:00+00:00"}
    store.replace(stage.key("progress-00000.json"), json.dumps(running).encode())
    assert shards.progress(store, RUN, 3) == {
        "done": 5,
        "total": 13,
        "unit": "rows",
        "rate_per_second": 0.5,
        "eta_seconds": 16.0,  # 8 rows, those of shard 2 among them
        "at": "2999-01-01T00:00:00+00:00",
    }
    assert {key.rsplit("/", 1)[-1] for key in store.keys(stage.key("progress"))} == {
        "progress-00000.json",
        "progress-00001.json",
    }


class CountingStore(MemoryStore):
    asked = 0

    def stat(self, key):
        self.asked += 1
        return super().stat(key)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_looking_for_the_others_stays_cheap(order):
    """Over all of 300 shards, not 300 * 300 / 2 requests."""
    store, count = CountingStore(), 300
    numbers = range(count) if order == "rising" else reversed(range(count))
    for done, number in enumerate(numbers, start=1):
        store.create(shard_records._record_key(RUN, Shard(number, count)), b"{}")
        assert shard_records.all_recorded(store, RUN, Shard(number, count)) == (done == count)
    assert store.asked < 12 * count


def test_rows_that_are_missing_cost_few_requests(llama):
    store = CountingStore()
    ours = answering.recipe(llama, adapter="none", chunk_rows=64)
    assert str(shards.missing_rows(store, RUN, ours, 1000, [7])) == (
        "shard 7: rows unknown, as nothing was answered yet"
    )
    division = shards.Division(shards=1000, rows=1_000_000, chunk_rows=64)
    store.create(f"runs/{RUN}/generate/shards.json", division.model_dump_json().encode())
    for chunk in (7, 1007, 2007):
        store.create(f"runs/{RUN}/generate/{Shard(7, 1000).part(chunk)}", b"")
    store.asked = 0
    missing = shards.missing_rows(store, RUN, ours, 1000, [7])
    assert (missing.rows, len(missing.spans)) == (13 * 64, 13)
    assert missing.spans[0] == (3007 * 64 + 1, 3008 * 64)
    assert store.asked <= 5
    store.asked = 0
    missing = shards.missing_rows(store, RUN, ours, 1000, range(500))
    assert (len(missing.shards), missing.others) == (8, 492)
    assert "and 492 more: at least" in str(missing)
    assert store.asked <= 8 * 5


def test_held_out_rows_are_known_before_anything_is_written(llama, store, stage):
    preprocess = manifests.load(store, RUN, "preprocess")[0]
    store.delete(f"runs/{RUN}/preprocess/manifest.json")
    counted = preprocess.model_copy(update={"counters": {"rows_test": 13}})
    store.create(f"runs/{RUN}/preprocess/manifest.json", manifests.encode(counted))
    missing = shards.missing_rows(store, RUN, stage.recipe, 3, [1, 2])
    assert str(missing) == "shards 1, 2: 7 of 13 rows have no answer: 4-9, 13"


def test_a_shard_that_cannot_be_is_refused(tmp_path):
    command = ("generate", "--run", "r", "--store", tmp_path / "store")
    line = fails(64, *command, "--shards", "3", "--shard", "3")
    assert "--shard 3: of 3 shards the last is 2" in line
    fails(64, *command, env={"QATUNE_SHARDS": "0"})
    fails(64, *command, env={"QATUNE_SHARDS": "2", "JOB_COMPLETION_INDEX": "-1"})
