"""The end of a sandbox whose Job is suspended or failed when evaluate is complete.

The test plays the cluster, its controller and Kueue; test_sandbox_job.py has the real ones.
"""

import copy

import pytest
from structlog.testing import capture_logs
from tests.support.cluster import stage_job
from tests.support.coordinating import in_process

from qatune.cluster import coordinator
from qatune.cluster.jobs import KUEUE_QUEUE, RELEASED_AT

NAMES = ("execute", "evaluate")
AT = "2026-03-01T12:00:00Z"
WAITS = "evaluate is complete; waiting for its sandbox's Job"


def condition(kind, reason):
    return {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": AT}


class Played:
    """Two released Jobs: evaluate's is complete, the sandbox's is suspended."""

    def __init__(self):
        self.jobs, self.looks, self.admits_at = {}, 0, None
        for name in NAMES:
            made = stage_job(name, release="r")
            made["metadata"] |= {"namespace": "ml", "uid": name, "creationTimestamp": AT}
            made["metadata"] |= {"resourceVersion": "1", "annotations": {RELEASED_AT: AT}}
            self.jobs[f"r-{name}"] = made | {"status": {}}
        self.jobs["r-evaluate"]["status"] = {"conditions": [condition("Complete", "")]}
        self.sandbox = self.jobs["r-execute"]

    def job(self, name):
        self.looks += 1
        assert self.looks < 50, "it waits for ever"
        if self.looks == self.admits_at:
            self.sandbox["spec"]["suspend"] = False
        return copy.deepcopy(self.jobs[name])

    def patch_job(self, name, patch):
        for part in ("metadata", "spec"):
            self.jobs[name][part] |= patch.get(part, {})

    def end(self, _):
        """Be told to end, which only a pod hears."""
        assert not self.sandbox["spec"]["suspend"]
        self.sandbox["status"] = {"conditions": [condition("Complete", "")]}


@pytest.fixture
def played(monkeypatch):
    api = Played()
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(coordinator.ending, "end", api.end)
    return api


def coordinated(api, store, **fields):
    """Return what was logged of the waiting."""
    with capture_logs() as lines:
        in_process(api, store, "r", NAMES, sandbox="http://sandbox:1", **fields).coordinate()
    return [line for line in lines if line["event"] == WAITS]


def test_one_that_was_suspended_by_hand_is_set_going_to_end(played, finished_store):
    (said,) = coordinated(played, finished_store)
    assert (said["job"], said["suspended"]) == ("r-execute", True)
    assert played.sandbox["status"]["conditions"][0]["type"] == "Complete"


def test_one_in_a_queue_is_left_to_kueue_and_said_once(played, finished_store):
    played.sandbox["metadata"]["labels"][KUEUE_QUEUE] = "team"
    played.admits_at = 20
    (said,) = coordinated(played, finished_store, queue="team")
    assert said["queue"] == "team"
    assert played.looks > 20
    assert played.sandbox["metadata"]["annotations"] == {RELEASED_AT: AT}  # not released again


def test_one_that_has_failed_for_good_fails_no_run(played, finished_store):
    reason = condition("Failed", "BackoffLimitExceeded")
    played.sandbox["status"] = {"conditions": [reason]}
    assert not coordinated(played, finished_store)
    assert played.sandbox["status"]["conditions"] == [reason]
