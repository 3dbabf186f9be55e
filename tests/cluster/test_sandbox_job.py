"""The sandbox's Job on a real cluster: released beside evaluate, ended with it."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tests.support.cluster import stage_job
from tests.support.coordinating import (
    KilledError,
    Mortal,
    connected,
    in_process,
    note,
    play_controller,
)

from qatune.cluster import coordinator
from qatune.cluster.coordinator import StageFailedError

NAMES = ("execute", "evaluate")


@contextmanager
def listening(end):
    """Stand in for a sandbox, which is in no pod here: it notes that it is told to end."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            end(self.path)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def coordinated(deploy, finished_store, monkeypatch):
    def made(release, url, evaluate="exit 0", execute="exec sleep 600", **fields):
        scripts = dict(zip(NAMES, (execute, evaluate), strict=True))
        made = [stage_job(name, scripts[name], release=release) for name in NAMES]
        api = connected(deploy(release, *made), monkeypatch)
        return in_process(api, finished_store, release, NAMES, sandbox=url, **fields)

    return made


def over(space, job, kind="Complete"):
    found = space.get("job", job)["status"].get("conditions", [])
    return [each for each in found if each["type"] == kind and each["status"] == "True"]


def test_it_is_released_before_evaluate_and_ends_after_it(space, coordinated):
    told = []

    def end(path):
        """End as the pod does: here by a deadline, as nobody is in it."""
        told.append(path)
        space.patch("job", "good-execute", {"spec": {"activeDeadlineSeconds": 1}})

    with listening(end) as url:
        coordinated("good", url).coordinate()
    assert told[0] == "/end"
    assert over(space, "good-execute", "Failed")  # that deadline; the run is complete all the same
    assert over(space, "good-evaluate")
    at = [note(space, f"good-{name}", "released-at") for name in NAMES]
    assert at[0] <= at[1]


def test_the_run_is_not_over_before_the_sandbox_is(space, coordinated):
    ours = coordinated("slow", NOBODY, execute="sleep 8")
    ours.coordinate()
    assert over(space, "slow-execute")


def test_one_that_was_suspended_after_its_release_is_set_going_to_end(space, coordinated):
    ours = coordinated("halted", NOBODY, execute="exit 0")
    released = {"annotations": {"qatune/released-at": "2026-03-01T12:00:00+00:00"}}
    space.patch("job", "halted-execute", {"metadata": released})
    ours.coordinate()
    assert over(space, "halted-execute")
    assert over(space, "halted-evaluate")


def test_one_that_fails_for_good_fails_no_run(space, coordinated):
    ours = coordinated("worn", NOBODY, evaluate="sleep 5", execute="exit 65")
    ours.coordinate()
    assert over(space, "worn-execute", "Failed")
    assert over(space, "worn-evaluate")


def test_any_coordinator_goes_on_where_the_last_was(space, coordinated, monkeypatch):
    """Each step by a new one: all that is known stands in the Jobs."""
    ours = coordinated("steps", NOBODY, execute="sleep 3")
    while ours._ahead:
        coordinator.Coordinator.__post_init__(ours)
        ours.step()
    assert over(space, "steps-execute")
    assert over(space, "steps-evaluate")


def test_when_evaluate_fails_the_sandbox_is_suspended_again(space, coordinated, monkeypatch):
    monkeypatch.setattr(coordinator, "_CLOSING_SECONDS", 2.0)
    ours = coordinated("failed", NOBODY, evaluate="exit 66")
    for _ in range(2):  # a second start finds the same
        with pytest.raises(StageFailedError, match="evaluate failed"):
            ours.coordinate()
        assert space.get("job", "failed-execute")["spec"]["suspend"] is True
        assert "evaluate failed" in note(space, "failed-execute", "blocked")


def test_a_failure_before_evaluate_leaves_it_unreleased(space, deploy, finished_store, monkeypatch):
    names = ("preprocess", *NAMES)
    made = [stage_job(name, "exit 65", release="early") for name in names]
    api = connected(deploy("early", *made), monkeypatch)
    ours = in_process(api, finished_store, "early", names, sandbox=NOBODY)
    with pytest.raises(StageFailedError, match="preprocess failed"):
        ours.coordinate()
    assert note(space, "early-execute", "released-at") is None
    assert "preprocess failed" in note(space, "early-execute", "blocked")


def test_a_sandbox_that_is_gone_holds_nobody_up(space, coordinated):
    ours = coordinated("gone", NOBODY)
    space.patch("job", "gone-evaluate", {"spec": {"suspend": False}})
    space.delete("job", "gone-execute")
    ours.coordinate()
    assert over(space, "gone-evaluate")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_request_it_releases_once_and_ends_the_sandbox(
    space, deploy, finished_store, monkeypatch, moment
):
    """This test plays the controller: the sandbox's Job is complete once it was told to end."""
    release, told, seen = f"kills-{moment}", [], {}
    made = [stage_job(name, release=release, managedBy="example.com/nobody") for name in NAMES]
    api = connected(deploy(release, *made), monkeypatch)
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    number, over = 1, False
    with listening(told.append) as url:
        while not over:
            try:
                mortal = Mortal(api, number, moment)
                in_process(mortal, finished_store, release, NAMES, sandbox=url).coordinate()
                over = True
            except KilledError:
                number += 1
            for job in space.get("jobs", selector=f"app.kubernetes.io/instance={release}"):
                at = job["metadata"].get("annotations", {}).get("qatune/released-at")
                found = (at, job["metadata"]["generation"])
                assert not at or seen.setdefault(job["metadata"]["name"], found) == found
                if told or job["metadata"]["name"].endswith("evaluate"):
                    play_controller(space, job)
    assert len(seen) == 2
    assert number > 4
    assert set(told) == {"/end"}
