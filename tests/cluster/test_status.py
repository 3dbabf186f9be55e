"""What `status` shows of Jobs and pods that are made by hand."""

import json
from dataclasses import replace
from datetime import timedelta

from tests.support.made import COMPLETE, LOST, NOW, RUNNING, TOLD, a_job, a_run

from qatune.cluster import diagnosis, status
from qatune.store.memory import MemoryStore


def test_status_shows_what_has_no_job_and_explains():
    known = a_run(COMPLETE, a_job("generate"), coordinator=TOLD, missing=["train"])
    found = status.from_cluster(known, None)
    assert [(line.stage, line.state) for line in found.stages] == [
        ("preprocess", "complete"),
        ("train", "gone"),
        ("generate", "waiting for train"),
    ]
    assert json.loads(found.as_json())["explained"] == diagnosis.explain(known)


def test_the_sandbox_stands_before_evaluate():
    sandbox = a_job("execute", suspended=False, active=1)
    known = a_run(COMPLETE, a_job("evaluate", after="generate"), sandbox=sandbox)
    lines = status.from_cluster(known, None).stages
    assert [(line.stage, line.state) for line in lines] == [
        ("preprocess", "complete"),
        ("execute", "starting"),
        ("evaluate", "waiting for generate"),
    ]


def test_status_says_a_sentence_once(capsys):
    known = a_run(LOST)
    found = status.from_cluster(known, None, ["a note"])
    status.show(found)
    shown = capsys.readouterr().out
    assert shown.count(found.stages[0].reason) == 1
    assert "a note" in shown


def test_progress_of_an_earlier_attempt_is_not_shown():
    store = MemoryStore()
    known = a_run(replace(RUNNING, started=NOW))
    for at, shown in ((NOW - timedelta(seconds=1), False), (NOW, True)):
        beat = {"done": 4, "total": 9, "unit": "steps", "at": at.isoformat()}
        beat |= {"rate_per_second": 7839.1, "eta_seconds": None}
        store.replace("runs/finished/train/progress.json", json.dumps(beat).encode())
        (line,) = status.from_cluster(known, store).stages
        assert bool(line.progress) == shown
    assert status.progress_text(line.progress).startswith("4/9 steps, 7,839 a second")
