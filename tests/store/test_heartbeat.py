"""How far a stage is, as it writes it to the store."""

import json
import threading
import time

import pytest
from tests.support import finished_run

from qatune.cluster import status
from qatune.data.shards import Shard
from qatune.errors import MissingInputError, NotAllowedError, UnavailableError
from qatune.store import heartbeats
from qatune.store.artifacts import StageRun
from qatune.store.manifests import manifest_key
from qatune.store.memory import MemoryStore
from qatune.store.shards import heartbeat_name

DIVISION = b'{"shards": %d, "rows": 240, "chunk_rows": 64}'


def test_what_an_earlier_start_has_done_is_no_speed_of_this_one(monkeypatch):
    now = 100.0
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: now)
    store = MemoryStore()
    stage = StageRun.open(store, "fast", "preprocess", finished_run.recipe())
    with stage.progress("training", 100, "steps") as bar:
        bar.skip(80)
        now += 10
        bar.advance(5)
    beat = json.loads(store.read("runs/fast/preprocess/progress.json"))
    assert (beat["done"], beat["rate_per_second"], beat["eta_seconds"]) == (85, 0.5, 30.0)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_heartbeat_that_is_none_is_named(shards):
    store = finished_run.finished()
    name = heartbeat_name(Shard(0, shards))
    store.delete(manifest_key(finished_run.RUN, "generate"))
    store.replace(f"runs/{finished_run.RUN}/generate/shards.json", DIVISION % shards)
    store.replace(f"runs/{finished_run.RUN}/generate/{name}", b"{torn")
    with pytest.raises(MissingInputError, match=f"generate/{name}: not a heartbeat that qatune"):
        status.from_store(store, finished_run.RUN, "no cluster")


@pytest.mark.parametrize("error", [UnavailableError, NotAllowedError])
def test_a_heartbeat_that_cannot_be_written_stops_nothing(error, capfd):
    class Refusing(MemoryStore):
        def replace(self, key, data):
            raise error("not now")

    stage = StageRun.open(Refusing(), "still", "preprocess", finished_run.recipe())
    with stage.progress("training", 100, "steps") as bar:
        bar.advance(5)
    assert "heartbeat not written" in capfd.readouterr().err


def test_no_step_waits_for_a_heartbeat(monkeypatch):
    monkeypatch.setattr(heartbeats, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(heartbeats, "_LAST_SECONDS", 0.1)
    free = threading.Event()

    class Mute(MemoryStore):
        def replace(self, key, data):
            assert free.wait(30)
            super().replace(key, data)

    stage = StageRun.open(Mute(), "mute", "preprocess", finished_run.recipe())
    began = time.monotonic()
    with stage.progress("training", 100, "steps") as bar:
        for _ in range(50):
            bar.advance()
    assert time.monotonic() - began < 2
    free.set()


@pytest.mark.parametrize(
    ("beat", "saved", "lost"),
    [
        (None, 0, 0.0),
        ({"done": 50, "rate_per_second": 0.5}, 40, 20.0),
        ({"done": 50, "rate_per_second": 0.5}, 60, 0.0),  # it went on after its last heartbeat
        ({"done": 50, "rate_per_second": 0.0}, 40, 0.0),
    ],
)
def test_what_was_done_and_not_saved_is_lost(beat, saved, lost):
    assert heartbeats.lost_seconds(beat, saved) == lost
