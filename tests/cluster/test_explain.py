"""`qatune explain` and `qatune status` on a real cluster, of runs that are really broken."""

import json
import re
from datetime import UTC, datetime

import pytest
from tests.support import broken, cluster
from tests.support.cluster import RUN, STAGES, eventually, stage_job
from tests.support.qatune_command import fails, qatune

from qatune.cluster import client, diagnosis, facts

SECONDS = 240  # a kubelet measures volumes once a minute, and later where a machine is busy


@pytest.fixture(scope="module")
def broken_space(space):
    broken.deploy(space, broken.BROKEN)
    return space


@pytest.fixture(scope="module")
def limited(real_cluster):
    with cluster.namespace("qatune-quota") as made:
        broken.limit(made)
        broken.deploy(made, broken.OVER_QUOTA)
        yield made


def explained(space, run):
    return diagnosis.explain(facts.gather(client.connect(space.name), run))


def says(space, run, pattern):
    """Wait until a run is explained so; on a failure show what was said last."""
    last = []

    def matches():
        last[:] = [explained(space, run)]
        return re.fullmatch(pattern, last[0])

    try:
        eventually(matches, SECONDS, pause=1)
    except AssertionError:
        pytest.fail(f"{run}: {last[0]!r} is not like {pattern!r}")


@pytest.mark.parametrize("run", broken.BROKEN)
def test_what_cannot_run_is_explained(broken_space, run):
    says(broken_space, run, broken.sentence(broken.BROKEN, run, broken_space.name))


@pytest.mark.parametrize("run", broken.OVER_QUOTA)
def test_a_quota_that_allows_no_more_is_named(limited, run):
    says(limited, run, broken.sentence(broken.OVER_QUOTA, run, limited.name))


def running(space, run, script="sleep 300"):
    """Start a train Job, and return the name of its pod once that runs."""
    space.apply(stage_job("train", script, release=run, run=run, suspend=False))
    says(space, run, r"train is running on .+")
    return newest_pod(space, run)


def newest_pod(space, run):
    found = space.get("pods", selector=f"qatune/run={run}")
    return max(found, key=lambda pod: pod["metadata"]["creationTimestamp"])["metadata"]["name"]


def test_a_deleted_pod_is_replaced(space):
    pod = running(space, "deleted")
    space.delete("pod", pod)
    says(space, "deleted", rf"train is running on .+; before: pod {pod} was deleted at .+ saved")


def test_a_drained_pod_is_replaced(space):
    """Evict it by the API that `kubectl drain` uses; the node itself belongs to all tests."""
    pod = running(space, "drained", "trap 'sleep 3; exit 75' TERM; sleep 300 & wait")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": space.name},
    }
    path = f"/api/v1/namespaces/{space.name}/pods/{pod}/eviction"
    space.kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))
    says(space, "drained", r"train is interrupted: pod .+ was ended \(Eviction API: evicting\) .+")
    says(space, "drained", rf"train is running on .+; before: pod {pod} was deleted at .+ saved")


def test_a_released_job_in_kueue_is_parked_and_one_suspended_by_hand_is_not(space):
    for run in ("parked", "byhand"):
        job = stage_job("train", release=run, run=run)
        job["metadata"]["annotations"]["qatune/released-at"] = "2026-03-01T12:00:00+00:00"
        if run == "parked":
            cluster.with_kueue(job)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
        space.apply(job)
    assert "train is parked behind Kueue queue gpus" in explained(space, "parked")
    assert "train was suspended by hand after its release" in explained(space, "byhand")


def test_a_run_without_coordinator_says_so(space):
    space.apply(stage_job("preprocess", release="alone", run="alone"))
    assert "the coordinator's Job is gone" in explained(space, "alone")


def test_a_coordinator_that_cannot_start_is_the_reason(space):
    image = {"image": "localhost/no-such-image:1"}
    space.apply(
        stage_job("preprocess", release="headless", run="headless"),
        stage_job(
            "coordinator", release="headless", run="headless", suspend=False, container=image
        ),
    )
    says(space, "headless", r"preprocess waits for the coordinator: coordinator: image cannot .+")


@pytest.fixture
def narrow(space, tmp_path):
    """A user who may see Jobs and pods of the namespace, and nothing else."""
    name = "viewer"
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]
    space.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
    )
    return {"KUBECONFIG": str(cluster.kubeconfig_of(space, name, tmp_path))}


def test_with_few_rights_it_says_the_rest(broken_space, narrow):
    said = qatune("explain", "gpus", env=narrow)
    assert said.returncode == 0, said.stderr
    assert re.match(
        r"train waits for 900 nvidia.com/gpu; the scheduler says: 0/\d+ nodes are", said.stdout
    )
    line = fails(77, "explain", "gpus", "--namespace", "default", env=narrow)
    assert "not allowed" in line
    assert "cannot list resource" in line
    assert line.endswith("ask for the right to it")


def test_the_command_s_failures_are_one_line_each(broken_space, tmp_path):
    name = broken_space.name
    line = fails(66, "explain", "nope", "--namespace", name)
    assert f"no run 'nope' in namespace {name}; runs there: " in line
    gone = tmp_path / "gone"
    gone.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:9"}}],
                "users": [{"name": "a", "user": {"token": "t"}}],
                "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                "current-context": "a",
            }
        )
    )
    line = fails(69, "status", "gpus", env={"KUBECONFIG": str(gone)})
    assert "the Kubernetes API does not answer" in line
    line = fails(66, "status", "gpus", env={"KUBECONFIG": str(tmp_path / "none")})
    assert "kubeconfig" in line
    (tmp_path / "torn").write_text("a: [b")
    line = fails(66, "status", "gpus", env={"KUBECONFIG": str(tmp_path / "torn")})
    assert f"kubeconfig {tmp_path / 'torn'}: cannot be used: " in line
    line = fails(66, "explain", "gpus", "--context", "none")
    assert "none" in line


@pytest.fixture(scope="module")
def half_done(space, finished_store):
    """A run whose preprocess is complete, and whose train is at work in the store, too."""
    jobs = [stage_job("preprocess", release="half", run=RUN, suspend=False)]
    jobs += [stage_job("train", "sleep 300", release="half", run=RUN, suspend=False)]
    jobs += [stage_job(stage, release="half", run=RUN) for stage in STAGES[2:]]
    for job in jobs:
        job["metadata"]["annotations"]["qatune/store"] = finished_store.uri
    space.apply(*jobs)
    says(space, RUN, r"train is running on .+")
    beat = {"done": 40, "total": 120, "unit": "steps", "rate_per_second": 0.5}
    beat |= {"eta_seconds": 160.0, "at": datetime.now(UTC).isoformat()}
    finished_store.replace(f"runs/{RUN}/train/progress.json", json.dumps(beat).encode())
    return space


def test_status_shows_stages_pods_and_progress(half_done):
    shown = qatune("status", RUN, "--namespace", half_done.name, env={"COLUMNS": "160"}).stdout
    rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if "│" in line}
    assert "complete" in rows["preprocess"]
    assert "1 succeeded" in rows["preprocess"]
    assert "running" in rows["train"]
    assert "1 active" in rows["train"]
    assert "40/120 steps, 0.5 a second, 2m 40s left" in rows["train"]
    assert "waiting for train" in rows["generate"]


def test_status_can_be_read_by_scripts(half_done):
    done = qatune("status", RUN, "--namespace", half_done.name, "--output", "json")
    train = json.loads(done.stdout)["stages"][1]
    assert (train["stage"], train["state"]) == ("train", "running")
    assert train["progress"]["done"] == 40


def test_status_says_that_the_store_is_out_of_reach(half_done):
    away = {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "COLUMNS": "160",
    }
    namespace = ("--namespace", half_done.name)
    done = qatune("status", RUN, *namespace, "--store", "s3://bucket/x", env=away)
    assert done.returncode == 0, done.stderr
    assert "no progress: s3://bucket/x" in done.stdout
    assert "1 active" in done.stdout


def test_status_of_a_failed_run_gives_the_pod_s_last_words(broken_space):
    says(broken_space, "data", r"train failed .+")
    done = qatune("status", "data", "--namespace", broken_space.name)
    assert "train failed with 65: column 'answer' not found" in done.stdout


def test_of_a_run_that_the_namespace_does_not_have_the_store_speaks(half_done, finished_store):
    done = qatune("status", RUN, "--namespace", "default", "--store", finished_store.uri)
    assert done.returncode == 0, done.stderr
    assert f"no run {RUN!r} in namespace default" in done.stdout
    assert "this is what the store says" in done.stdout


def test_without_a_cluster_the_store_speaks_alone(finished_store, tmp_path):
    nowhere = {"KUBECONFIG": "", "HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": ""}
    done = qatune("status", RUN, "--store", finished_store.uri, env=nowhere)
    assert done.returncode == 0, done.stderr
    assert "no cluster: neither KUBECONFIG nor" in done.stdout
    assert "token; this is what the store says" in done.stdout
    assert done.stdout.count("complete") == len(STAGES)
    assert "no run 'nope'" in fails(
        66, "status", "nope", "--store", finished_store.uri, env=nowhere
    )
    assert "no cluster" in fails(66, "status", RUN, env=nowhere | {"QATUNE_STORE": ""})
