"""What goes wrong, what a person then reads, and how the run goes on."""

import json
import os

import pytest
from tests.support import e2e
from tests.support.qatune_command import qatune
from tests.support.waiting import wait_for

QUICK = {"max_steps": 4, "save_steps": 2, "eval_steps": 4}


@pytest.fixture(scope="module")
def values(bucket, tmp_path_factory):
    return e2e.written(tmp_path_factory.mktemp("values"), e2e.values(bucket, train=QUICK))


def explain(namespace, run_name):
    return qatune("explain", run_name, "--namespace", namespace.name).stdout


def why(namespace, release, component):
    return namespace.jobs(release)[component]["metadata"]["annotations"]["qatune/blocked"]


def events(namespace, reason):
    return [each["message"] for each in namespace.get("events") if each["reason"] == reason]


def test_bad_data_stops_the_run_and_the_mended_one_goes_on(namespace, values, bucket):
    namespace.install("data", values, "recipe.data.columns.answer=reply")
    assert namespace.ends("data", "coordinator") == "Failed"
    jobs = namespace.jobs("data")
    assert e2e.condition(jobs["preprocess"]) == "Failed"
    for stage in ("train", "generate", "evaluate"):
        assert jobs[stage]["spec"]["suspend"] is True
        assert "preprocess failed with exit code 65 (bad data)" in why(namespace, "data", stage)
    told = events(namespace, "StageFailed")
    assert any("preprocess failed with exit code 65" in said for said in told)
    said = explain(namespace, "data")
    assert "preprocess failed with 65" in said
    assert "column 'reply' not found" in said
    namespace.install("data", values, "run.attempt=2", command="upgrade")
    assert namespace.ends("data", "coordinator") == "Complete"
    assert bucket.manifest("data", "evaluate").counters["rows"] == 48


def test_a_later_stage_that_failed_goes_on_in_the_next_attempt(namespace, values, bucket):
    namespace.install("late", values, "stages.train.activeDeadlineSeconds=1")
    assert namespace.ends("late", "coordinator") == "Failed"
    late = "train took longer than stages.train.activeDeadlineSeconds allows"
    assert late in why(namespace, "late", "generate")
    assert late in explain(namespace, "late")
    first = bucket.manifest("late", "preprocess")
    settings = ("run.attempt=2", "stages.generate.enabled=false", "stages.evaluate.enabled=false")
    namespace.install("late", values, *settings, command="upgrade")
    assert namespace.ends("late", "coordinator") == "Complete"
    assert bucket.manifest("late", "preprocess") == first
    assert bucket.manifest("late", "train").counters["steps"] == 4


def test_a_started_run_does_not_change(namespace, values):
    namespace.install("fixed", values, "stages.preprocess.gpu.count=99")
    said = namespace.install(
        "fixed", values, "recipe.train.seed=7", command="upgrade", check=False
    ).stderr
    assert 'run "fixed", attempt 1, has been started with other values' in said
    assert "release of its own: helm install OTHER CHART" in said
    assert "--set run.attempt=2" in said


def test_a_run_at_work_is_neither_ended_nor_doubled(namespace, values):
    other = namespace.install("fixed", values, "run.name=other", command="upgrade", check=False)
    assert 'run "fixed" of this release is at work, and another name would end it' in other.stderr
    second = namespace.install("second", values, "run.name=fixed", check=False)
    namespace.releases.remove("second")
    assert 'release "fixed" is at work on run "fixed"' in second.stderr
    assert e2e.condition(namespace.jobs("fixed")["coordinator"]) is None


def test_a_deleted_job_comes_back_with_an_upgrade(namespace, values):
    namespace.kubectl("delete", "job", namespace.jobs("fixed")["preprocess"]["metadata"]["name"])
    wait_for("its absence", 30, lambda: "preprocess has no Job" in explain(namespace, "fixed"))
    shown = qatune("status", "fixed", "--namespace", namespace.name).stdout
    assert "gone" in shown
    namespace.install("fixed", values, "stages.preprocess.gpu.count=99", command="upgrade")
    wait_for(
        "its release", 60, lambda: not namespace.jobs("fixed")["preprocess"]["spec"]["suspend"]
    )
    assert e2e.condition(namespace.jobs("fixed")["coordinator"]) is None


def test_a_begun_run_keeps_its_recipe_and_its_attempts(namespace, values):
    changed = ("recipe.train.seed=7", "run.attempt=3")
    said = namespace.install("data", values, *changed, command="upgrade", check=False).stderr
    assert 'run "data" has begun with another recipe' in said
    said = namespace.install("data", values, command="upgrade", check=False).stderr
    assert 'run "data" is at attempt 2: an earlier one does not come back' in said


def test_a_stage_that_a_rollback_suspended_is_released_again(namespace, values):
    """As older versions of Helm do it, which set back what others have changed."""
    old = ("--namespace", namespace.name, "--server-side=false")
    chart = e2e.ROOT / "helm" / "qatune"
    namespace.releases.append("rolled")
    given = ("--values", values, "--set", "stages.preprocess.gpu.count=98")
    e2e.run("helm", "install", "rolled", chart, *old, *given)

    def released():
        job = namespace.jobs("rolled")["preprocess"]
        return not job["spec"]["suspend"] and job["metadata"]["annotations"]["qatune/released-at"]

    first = wait_for("the release", 60, released)
    e2e.run("helm", "upgrade", "rolled", chart, *old, *given, "--set", "run.note=x")
    e2e.run("helm", "rollback", "rolled", "1", *old)
    wait_for("another release", 60, lambda: (again := released()) and again != first)
    namespace.uninstall("rolled")


def test_a_pod_that_no_node_can_take_is_explained(namespace):
    def told():
        said = explain(namespace, "fixed")
        return "99 nvidia.com/gpu" in said and said

    said = wait_for("the reason", 30, told)
    assert said.startswith("preprocess waits for"), said
    namespace.uninstall("fixed")


def test_a_run_s_name_has_one_recipe(namespace, values, bucket):
    """Two releases under one name: the second is told, and the first's run is left as it is."""
    namespace.install(
        "again", values, "run.name=data", "recipe.train.seed=7", "stages.train.enabled=false"
    )
    assert namespace.ends("again", "coordinator") == "Failed"
    (pod,) = namespace.pods("again", "preprocess")
    state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert state["exitCode"] == 78
    assert "already has another recipe (train.seed: 42 there, 7 here)" in state["message"]
    assert bucket.manifest("data", "evaluate")


def test_a_shard_that_fails_for_good_leaves_the_others_work(namespace, values, bucket):
    """One shard meets a broken part, which is named; without it the shard ends as the others."""
    adapter = f"recipe.generate.adapter={bucket.uri}/store/runs/data/train/adapter"
    shards = ("generate.shards=3", "stages.generate.backoffLimit=0", "run.name=shards", adapter)
    broken = "runs/shards/generate/parts/part-00001-00004.jsonl"
    bucket.store.create(broken, b"{broken\n")
    namespace.install("shards", values, *shards)
    assert namespace.ends("shards", "coordinator") == "Failed"
    job = namespace.jobs("shards")["generate"]
    assert job["status"]["failedIndexes"] == "1"
    assert job["status"]["completedIndexes"] == "0,2"
    said = why(namespace, "shards", "evaluate")
    proven = "shard 1: all answers are saved, but they could not be proven"
    assert f"generate failed in 1 of 3 shards: 1 ({proven});" in said
    assert f"1 ({proven}); the last failed with 66: " in explain(namespace, "shards")
    kept = parts(bucket, "shards")
    bucket.store.delete(broken)
    namespace.install("shards", values, *shards, "run.attempt=2", command="upgrade")
    assert namespace.ends("shards", "coordinator") == "Complete"
    assert bucket.manifest("shards", "generate").counters["answers"] == 48
    after = parts(bucket, "shards")
    assert {name: after[name] for name in kept if name != broken} == {
        name: etag for name, etag in kept.items() if name != broken
    }


def parts(bucket, run_name):
    keys = bucket.store.keys(f"runs/{run_name}/generate/parts/")
    return {key: bucket.store.stat(key).etag for key in keys}


def test_a_parked_job_is_admitted_by_kueue_alone(namespace, values):
    """Stand in for Kueue: unsuspend what carries the label of its queue."""
    only = [f"stages.{stage}.enabled=false" for stage in ("train", "generate", "evaluate")]
    namespace.install("kueue", values, "kueue.queue=gpus", "run.name=data", *only)
    label = "kueue.x-k8s.io/queue-name"

    def asked():
        job = namespace.jobs("kueue")["preprocess"]
        return job["metadata"]["labels"][label] == "gpus" and job

    job = wait_for("the label of the queue", 60, asked)
    assert job["spec"]["suspend"] is True
    assert "Kueue queue gpus" in explain(namespace, "data")
    placed = {"spec": {"tolerations": [{"key": "flavor", "operator": "Exists"}]}}
    patch = json.dumps({"spec": {"suspend": False, "template": placed}})
    namespace.kubectl("patch", "job", job["metadata"]["name"], "--type=merge", "--patch", patch)
    namespace.install("kueue", values, "kueue.queue=gpus", "run.name=data", "run.note=x", *only,
                      command="upgrade")  # fmt: skip
    after = namespace.jobs("kueue")["preprocess"]
    assert after["metadata"]["labels"][label] == "gpus"
    assert after["spec"]["suspend"] is False
    assert after["spec"]["template"]["spec"]["tolerations"][0]["key"] == "flavor"
    assert namespace.ends("kueue", "coordinator") == "Complete"


def test_nothing_secret_is_written_down(namespace, bucket):
    """Not in values, events, logs or manifests of all these runs."""
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    releases = [
        e2e.run("helm", "get", "all", release, "--namespace", namespace.name).stdout
        for release in namespace.releases
    ]
    pods = ("--selector", "app.kubernetes.io/name=qatune", "--max-log-requests", "1000")
    logs = namespace.kubectl("logs", *pods, "--tail", "-1", "--ignore-errors").stdout.splitlines()
    objects = [
        bucket.store.read(key).decode(errors="replace")
        for key in bucket.store.keys("runs/")
        if key.endswith((".json", ".jsonl", ".html"))
    ]
    written = [json.dumps(namespace.get("events")), *releases, *logs, *objects]
    assert len(releases) > 4
    assert min(len(logs), len(objects)) > 30
    assert not [text for text in written if secret in text]
