"""The coordinator on a real cluster, with the rights that the chart gives it and no others."""

import json
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support import cluster, finished_run
from tests.support.cluster import STAGES, eventually, stage_job
from tests.support.coordinating import connected, ended, in_process, note, play_controller

from qatune.cluster import client, coordinator
from qatune.cluster.coordinator import StageFailedError
from qatune.data.shards import Shard
from qatune.errors import NotAllowedError
from qatune.store.folder import FolderStore

SECONDS_TO_THE_NEXT_POD = 3


def test_stages_run_in_order_each_soon_after_the_one_before(space, deploy, command):
    kubeconfig = deploy("order", *(stage_job(stage, release="order") for stage in STAGES))
    seen = {}
    with command("order", kubeconfig) as process:
        while process.poll() is None:
            _look(space, seen)
            time.sleep(0.1)
        assert ended(process)[0] == 0
    waits = [
        seen[f"order-{later}", "scheduled"] - seen[f"order-{stage}", "complete"]
        for stage, later in pairwise(STAGES)
    ]
    assert all(-1 < wait < SECONDS_TO_THE_NEXT_POD for wait in waits), waits


def _look(space, seen):
    """Note when a Job is seen complete for the first time, and when its pod is seen scheduled."""
    for each in space.get("jobs,pods", selector="app.kubernetes.io/instance=order"):
        pod = each["kind"] == "Pod"
        labels, status = each["metadata"]["labels"], each["status"]
        there = pod and each["spec"].get("nodeName")
        if there or (not pod and status.get("completionTime")):
            name = f"order-{labels['app.kubernetes.io/component']}"
            seen.setdefault((name, "scheduled" if pod else "complete"), time.monotonic())


def test_a_failed_stage_leaves_the_later_ones_suspended_and_says_why(space, deploy, command):
    jobs = [stage_job(stage, release="broken") for stage in STAGES]
    jobs[1] = stage_job("train", "exit 65", release="broken")
    kubeconfig = deploy("broken", *jobs)
    sentence = (
        "train failed with exit code 65 (bad data); mend the cause (`qatune explain finished` "
        f"names it), then helm upgrade broken CHART --namespace {space.name} "
        "--reset-then-reuse-values --set run.attempt=2"
    )
    with command("broken", kubeconfig) as process:
        assert ended(process) == (66, f"qatune: {sentence}")
    for stage in ("generate", "evaluate"):
        assert space.get("job", f"broken-{stage}")["spec"]["suspend"] is True
        assert note(space, f"broken-{stage}", "blocked") == sentence
        assert note(space, f"broken-{stage}", "released-at") is None
    event = space.get("event", "broken-coordinator")
    assert (event["type"], event["reason"], event["message"]) == (
        "Warning",
        "StageFailed",
        sentence,
    )
    assert event["involvedObject"]["uid"] == space.get("job", "broken-train")["metadata"]["uid"]

    # Another start finds the same and writes nothing new.
    versions = [
        _version(space, "event", "broken-coordinator"),
        _version(space, "job", "broken-evaluate"),
    ]
    with command("broken", kubeconfig) as process:
        assert ended(process)[0] == 66
    assert versions == [
        _version(space, "event", "broken-coordinator"),
        _version(space, "job", "broken-evaluate"),
    ]


def _version(space, kind, name):
    return space.get(kind, name)["metadata"]["resourceVersion"]


def test_a_failure_is_told_though_a_later_job_is_gone(space, deploy, command):
    jobs = [stage_job(stage, release="holed") for stage in STAGES]
    jobs[0] = stage_job("preprocess", "exit 65", release="holed")
    kubeconfig = deploy("holed", *jobs)
    space.kubectl("delete", "job", "holed-train")
    with command("holed", kubeconfig) as process:
        code, line = ended(process)
    assert code == 66
    assert "preprocess failed with exit code 65" in line
    assert note(space, "holed-evaluate", "blocked") == line.removeprefix("qatune: ")
    assert space.get("event", "holed-coordinator")["reason"] == "StageFailed"


def test_a_finished_stage_whose_job_is_gone_is_passed_over(space, deploy, command):
    kubeconfig = deploy("passed", *(stage_job(stage, release="passed") for stage in STAGES[:2]))
    space.kubectl("delete", "job", "passed-preprocess")
    with command("passed", kubeconfig, stages=STAGES[:2]) as process:
        assert ended(process)[0] == 0
    assert note(space, "passed-train", "released-at")


@pytest.fixture
def two_parts(tmp_path):
    """A store of 240 rows in four parts, of which there are the first two."""
    store = FolderStore(str(tmp_path / "store"))
    folder = f"runs/{cluster.RUN}/generate"
    store.create(f"{folder}/shards.json", b'{"shards": 3, "rows": 240, "chunk_rows": 64}')
    for chunk in (0, 1):
        store.create(f"{folder}/{Shard(chunk, 3).part(chunk)}", b"")
    return store


def test_failed_shards_are_named_with_the_rows_that_lack_an_answer(
    space, deploy, command, two_parts
):
    job = stage_job(
        "generate",
        'test "$JOB_COMPLETION_INDEX" = 1 || exit 65',
        release="shards",
        completionMode="Indexed",
        completions=3,
        parallelism=3,
        backoffLimitPerIndex=1,
    )
    kubeconfig = deploy("shards", job)
    with command("shards", kubeconfig, stages=["generate"], store=two_parts) as process:
        code, line = ended(process)
    assert code == 66
    missing = "shards 0, 2: 112 of 240 rows have no answer: 129-240"
    assert f"generate failed in 2 of 3 shards: 0, 2 ({missing})" in line


def test_with_kueue_the_label_is_changed_and_kueue_unsuspends(space, deploy, command):
    stages = STAGES[:2]
    jobs = [cluster.with_kueue(stage_job(stage, release="kueue")) for stage in stages]
    kubeconfig = deploy("kueue", *jobs)
    stop = threading.Event()
    kueue = threading.Thread(target=_admit, args=(space, stop))
    kueue.start()
    try:
        with command("kueue", kubeconfig, "--queue", "gpus", stages=stages) as process:
            assert ended(process)[0] == 0
    finally:
        stop.set()
        kueue.join()
    for stage in stages:
        job = space.get("job", f"kueue-{stage}")
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
        assert "spec" not in _fields_written_by("qatune", space, f"kueue-{stage}")


def _admit(space, stop):
    """Unsuspend as Kueue does: what is in a queue that it knows, and nothing parked."""
    while not stop.wait(0.3):
        for job in space.get("jobs", selector="kueue.x-k8s.io/queue-name=gpus"):
            if job["spec"]["suspend"]:
                space.patch("job", job["metadata"]["name"], {"spec": {"suspend": False}})


def _fields_written_by(manager, space, job):
    shown = space.kubectl("get", "job", job, "--show-managed-fields", "--output", "json")
    managed = json.loads(shown)["metadata"]["managedFields"]
    return " ".join(str(each["fieldsV1"]) for each in managed if each["manager"] == manager)


def test_a_job_suspended_again_by_somebody_is_left_alone(
    space, deploy, finished_store, monkeypatch
):
    kubeconfig = deploy("byhand", stage_job("preprocess", "sleep 60", release="byhand"))
    ours = in_process(connected(kubeconfig, monkeypatch), finished_store, "byhand", ["preprocess"])
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    ours.step()
    assert space.get("job", "byhand-preprocess")["spec"]["suspend"] is False
    space.patch("job", "byhand-preprocess", {"spec": {"suspend": True}})
    for _ in range(3):
        ours.step()
    assert space.get("job", "byhand-preprocess")["spec"]["suspend"] is True


def test_a_change_between_reading_and_releasing_is_not_overwritten(
    space, deploy, finished_store, monkeypatch
):
    kubeconfig = deploy("race", stage_job("preprocess", release="race", managedBy="x.io/nobody"))
    api = connected(kubeconfig, monkeypatch)
    read = api.job("race-preprocess")
    space.patch("job", "race-preprocess", {"metadata": {"annotations": {"by": "another"}}})
    late = coordinator.release_patch(coordinator.jobs.read(read), None, datetime.now(UTC))
    with pytest.raises(client.ConflictError):
        api.patch_job("race-preprocess", late)
    ours = in_process(api, finished_store, "race", ["preprocess"])
    ours.step()
    assert space.get("job", "race-preprocess")["spec"]["suspend"] is False


@pytest.fixture
def complete_preprocess(space, deploy, monkeypatch):
    """A cluster in which the Job of preprocess is complete, whatever the store says."""

    def made(release):
        job = stage_job(
            "preprocess", release=release, managedBy="example.com/nobody", suspend=False
        )
        kubeconfig = deploy(release, job, stage_job("train", release=release))
        play_controller(space, space.get("job", f"{release}-preprocess") | {"status": {}})
        return connected(kubeconfig, monkeypatch)

    return made


def test_a_complete_job_without_manifest_is_a_failure(space, complete_preprocess, tmp_path):
    api = complete_preprocess("nothing")
    ours = in_process(api, FolderStore(str(tmp_path / "empty")), "nothing", STAGES[:2])
    with pytest.raises(StageFailedError, match=r"preprocess is complete, but .* was it deleted"):
        ours.coordinate()
    assert "was it deleted" in note(space, "nothing-train", "blocked")


def test_a_complete_job_with_a_manifest_of_another_recipe_is_a_failure(
    complete_preprocess, finished_store, tmp_path
):
    api = complete_preprocess("foreign")
    ours = in_process(api, finished_store, "foreign", STAGES[:2])
    ours.recipe = finished_run.recipe(source="another/model")
    with pytest.raises(StageFailedError, match=r"preprocess is complete, but .* another recipe"):
        ours.coordinate()


def test_its_rights_are_the_named_jobs_and_one_event(space, deploy, monkeypatch):
    kubeconfig = deploy("rights", stage_job("preprocess", release="rights"))
    space.apply(stage_job("preprocess", release="other"))
    api = connected(kubeconfig, monkeypatch)
    api.patch_job("rights-preprocess", {"metadata": {"annotations": {"a": "b"}}})
    forbidden = [
        lambda: api.jobs("qatune/run"),
        lambda: api.job("other-preprocess"),
        lambda: api.patch_job("other-preprocess", {"spec": {"suspend": False}}),
        lambda: api.apply_event("another", {"apiVersion": "v1", "kind": "Event"}),
        lambda: api.pods("qatune/run"),
        api.events,
        api.nodes,
    ]
    for call in forbidden:
        with pytest.raises(NotAllowedError, match="coordinator"):
            call()


def test_a_job_that_is_gone_is_waited_for_until_helm_brings_it_back(
    space, deploy, tmp_path, monkeypatch
):
    job = stage_job("preprocess", release="late", managedBy="example.com/nobody")
    kubeconfig = deploy("late", job)
    space.delete("job", "late-preprocess")
    eventually(lambda: not space.get("jobs", selector="app.kubernetes.io/instance=late"))
    store = FolderStore(str(tmp_path / "empty"))
    ours = in_process(connected(kubeconfig, monkeypatch), store, "late", ["preprocess"])
    monkeypatch.setattr("qatune.cluster.patience.START_SECONDS", 1.0)
    helm = threading.Timer(4.0, space.apply, [job])
    helm.start()
    monkeypatch.setattr(coordinator, "decide", lambda *_: coordinator.Action.NEXT)
    started = time.monotonic()
    ours.coordinate()
    helm.join()
    assert time.monotonic() - started > 3


def test_what_it_asks_and_holds_does_not_grow_with_shards(
    deploy, command, finished_store, monkeypatch
):
    shards = {
        "completionMode": "Indexed",
        "completions": 1000,
        "parallelism": 1000,
        "backoffLimitPerIndex": 1,
        "managedBy": "example.com/nobody",
    }
    kubeconfig = deploy("wide", stage_job("generate", release="wide", **shards))
    bucket = SimpleNamespace(uri="s3://bucket/prefix")  # boto3 takes a fifth of it
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with command("wide", kubeconfig, store=bucket, stages=["generate"]) as process:
        process.stderr.readline()
        time.sleep(3)
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak_kib = int(status.split("VmHWM:")[1].split()[0])
    assert peak_kib < 100 * 1024

    calls = []
    api = connected(kubeconfig, monkeypatch)

    class Counted:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(api, name)

    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    ours = in_process(Counted(), None, "wide", ["generate"])
    for _ in range(5):
        ours.step()
    assert calls == ["job"] * 5
