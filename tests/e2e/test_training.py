"""Training in two pods, and whatever may happen to a pod."""

import json

import pytest
from tests.support import e2e
from tests.support.waiting import wait_for

ONLY_TRAIN = ("stages.generate.enabled=false", "stages.evaluate.enabled=false")
STEPS = 24


def losses(bucket, run_name):
    lines = bucket.store.read(f"runs/{run_name}/train/metrics.jsonl").splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


@pytest.fixture(scope="module")
def trained(bucket, namespace, tmp_path_factory):
    """Train with a batch of four in one pod, and with two batches of two in two pods."""
    folder = tmp_path_factory.mktemp("values")
    for name, nodes, batch in (("one", 1, 4), ("two", 2, 2)):
        train = {"max_steps": STEPS, "per_device_train_batch_size": batch}
        values = e2e.written(folder, e2e.values(bucket, train=train), f"{name}.yaml")
        namespace.install(name, values, f"train.nodes={nodes}", *ONLY_TRAIN)
        if name == "two":
            _trouble(bucket, namespace)
        assert namespace.ends(name, "coordinator") == "Complete"
    return bucket


def _trouble(bucket, namespace):
    """Delete the coordinator, and evict one of the two pods, while they train."""
    (coordinator,) = namespace.pods("two", "coordinator")
    namespace.kubectl("delete", "pod", coordinator["metadata"]["name"], "--wait=false")
    prefix = "runs/two/train/checkpoints/"
    wait_for("a checkpoint", 300, lambda: list(bucket.store.keys(prefix)))
    pods = namespace.pods("two", "train")
    name = next(
        pod["metadata"]["name"]
        for pod in pods
        if pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "1"
    )
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace.name},
    }
    path = f"/api/v1/namespaces/{namespace.name}/pods/{name}/eviction"
    namespace.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))


def test_two_pods_learn_what_one_does(trained):
    one, two = losses(trained, "one"), losses(trained, "two")
    assert list(two) == list(range(1, STEPS + 1))
    assert two == pytest.approx(one, rel=1e-4)
    assert trained.manifest("two", "train").counters["world_size"] == 2


def test_the_evicted_pod_went_on_from_a_checkpoint(trained):
    assert trained.manifest("two", "train").counters["resumed_from_step"] > 0


def test_interruptions_do_not_count(trained, namespace):
    job = namespace.jobs("two")["train"]
    assert e2e.condition(job) == "Complete"
    assert job["status"]["succeeded"] == 2
    assert namespace.jobs("two")["coordinator"]["status"].get("failed", 0) <= 1
