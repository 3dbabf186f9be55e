"""How far a stage is, as it writes it to the store."""

import json

from tests.support import finished_run

from qatune.store import artifacts
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore


def test_what_an_earlier_start_has_done_is_no_speed_of_this_one(monkeypatch):
    now = 100.0
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: now)
    store = MemoryStore()
    stage = StageRun.open(store, "fast", "preprocess", finished_run.recipe())
    with stage.progress("training", 100, "steps") as bar:
        bar.skip(80)
        now += 10
        bar.advance(5)
    beat = json.loads(store.read("runs/fast/preprocess/progress.json"))
    assert (beat["done"], beat["rate_per_second"], beat["eta_seconds"]) == (85, 0.5, 30.0)
