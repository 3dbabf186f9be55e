"""The coordinator killed, stopped or cut off, on a real cluster: a restart changes nothing."""

import os
import signal
import time

import pytest
from tests.support.cluster import STAGES, stage_job
from tests.support.coordinating import (
    KilledError,
    Mortal,
    connected,
    ended,
    in_process,
    note,
    play_controller,
)

from qatune.cluster import client, coordinator, patience
from qatune.cluster.coordinator import StageFailedError
from qatune.errors import InterruptedRunError, NotAllowedError, UnavailableError


def test_killed_over_and_over_it_releases_each_job_once(space, deploy, command):
    stages = STAGES[:2]
    jobs = [stage_job(stage, "sleep 3", release="killed") for stage in stages]
    kubeconfig = deploy("killed", *jobs)
    kills, released = 0, {}
    while True:
        with command("killed", kubeconfig, stages=stages) as process:
            time.sleep(1.4)
            code = process.poll()
            process.send_signal(signal.SIGKILL)
        for stage in stages:
            at = note(space, f"killed-{stage}", "released-at")
            assert released.setdefault(stage, at) in {None, at}
            released[stage] = at
        if code is not None:
            assert code == 0
            break
        kills += 1
    assert kills >= 3
    pods = space.get("pods", selector="app.kubernetes.io/instance=killed")
    assert len(pods) == len(stages)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_request_a_restart_changes_nothing(
    space, deploy, finished_store, monkeypatch, moment
):
    """Jobs of a manager of our own: this test plays the controller, so no pod is waited for."""
    release = f"steps-{moment}"
    made = [stage_job(stage, release=release, managedBy="example.com/nobody") for stage in STAGES]
    api = connected(deploy(release, *made), monkeypatch)
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    number, versions = 1, {}
    while True:
        mortal = Mortal(api, number, moment)
        try:
            in_process(mortal, finished_store, release).coordinate()
        except KilledError:
            number += 1
        except StageFailedError as error:
            assert "generate failed" in str(error)
            break
        for job in space.get("jobs", selector=f"app.kubernetes.io/instance={release}"):
            at = job["metadata"].get("annotations", {}).get("qatune/released-at")
            if at:
                # Once released, no restart writes to it again.
                name, version = job["metadata"]["name"], job["metadata"]["generation"]
                assert versions.setdefault(name, (at, version)) == (at, version)
            play_controller(space, job)
    # Each kind of request was the last one: to read, to release, to annotate, to write the Event.
    assert number == 7
    assert "generate failed" in note(space, f"{release}-evaluate", "blocked")
    assert space.get("event", f"{release}-coordinator")["count"] == 1


def test_sigterm_ends_it_at_once_with_75(deploy, command):
    kubeconfig = deploy("stopped", stage_job("preprocess", "sleep 60", release="stopped"))
    with command("stopped", kubeconfig, stages=["preprocess"]) as process:
        process.stderr.readline()  # it has released the Job
        start = time.monotonic()
        process.terminate()
        assert ended(process)[0] == 75
        assert time.monotonic() - start < 2


def test_sigterm_is_not_taken_for_a_failure_of_the_library_at_work(finished_store):
    class Careless:
        def job(self, _name):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            except Exception as error:
                raise UnavailableError("no answer") from error

    with pytest.raises(InterruptedRunError):
        in_process(Careless(), finished_store, "careless").coordinate()


def test_each_kind_of_failure_is_borne_by_itself(monkeypatch):
    """A Job may be gone for hours; the API server that then starts anew still gets its time."""
    now = 0.0
    monkeypatch.setattr(patience.time, "monotonic", lambda: now)
    waiting = patience.Patience(sleep=lambda _: None)
    waiting.bear(client.NoSuchObjectError("gone"))
    now += 10_000
    waiting.bear(client.NoSuchObjectError("gone"))
    waiting.bear(NotAllowedError("starting"))
    now += patience.START_SECONDS + 1
    with pytest.raises(NotAllowedError):
        waiting.bear(NotAllowedError("starting"))


def test_each_kind_of_failure_begins_with_a_short_wait():
    waits = []
    waiting = patience.Patience(sleep=waits.append)
    for _ in range(8):
        waiting.bear(client.NoSuchObjectError("gone"))
    assert waits[-1] >= patience._LONGEST_PAUSE / 2
    waiting.bear(UnavailableError("away"))
    assert waits[-1] <= patience._FIRST_PAUSE


def test_an_outage_is_borne_with_one_warning_and_then_ends_with_69(
    deploy, finished_store, monkeypatch, tmp_path, capfd
):
    kubeconfig = deploy("outage", stage_job("preprocess", release="outage"))
    text = kubeconfig.read_text()
    server = text.split('"server": "')[1].split('"')[0]
    gone = tmp_path / "gone"
    gone.write_text(text.replace(server, "https://127.0.0.1:9"))
    ours = in_process(connected(gone, monkeypatch), finished_store, "outage", ["preprocess"])
    monkeypatch.setattr("qatune.cluster.patience.OUTAGE_SECONDS", 2.0)
    with pytest.raises(UnavailableError, match="Kubernetes API does not answer"):
        ours.coordinate()
    assert capfd.readouterr().err.count("trying again") == 1
