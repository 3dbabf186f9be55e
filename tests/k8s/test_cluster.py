"""k8s/ on a real cluster: taken by its API server, and the trial S3 at work."""

import json
import os
import shlex
import uuid
from pathlib import Path

import pytest
import yaml
from tests.support import e2e
from tests.support.chart import of, render
from tests.support.manifests import K8S, objects
from tests.support.waiting import wait_for

CRDS = Path(__file__).with_name("kueue-crds.yaml")
SEAWEED = "localhost/qatune-test-seaweed:4.48"


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """k8s/base, applied under another name, as its kustomization says it can be."""
    e2e.require()
    name = f"qt-k8s-{uuid.uuid4().hex[:6]}"
    found = e2e.Namespace(name)
    apply(tmp_path_factory.mktemp("base"), "base", name)
    try:
        for account in ("run-1", "run-1-coordinator"):
            found.kubectl("create", "serviceaccount", account)
        yield found
    finally:
        e2e.run("kubectl", "delete", "namespace", name, "--wait=false")


def apply(folder, source, namespace, patches=(), *options):
    layer = {
        "namespace": namespace,
        "resources": [os.path.relpath(K8S / source, folder.resolve())],
        "patches": list(patches),
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(layer))
    return e2e.run("kubectl", "apply", "--kustomize", folder, *options)


def dry_run(namespace, content, **options):
    return namespace.kubectl(
        "apply", "--filename", "-", "--dry-run=server", "--validate=strict",
        stdin=json.dumps(content), **options,
    )  # fmt: skip


def pod_of(job):
    """Return a Job's pod as an object of its own, so that admission judges it."""
    template = job["spec"]["template"]
    meta = {"name": "judged", "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}


def test_the_namespace_takes_every_pod_of_a_run(namespace):
    for name, job in of(render(), "Job").items():
        said = dry_run(namespace, pod_of(job))
        assert "Warning" not in said.stderr, name


def test_the_namespace_refuses_what_is_not_restricted(namespace):
    pod = pod_of(of(render(), "Job", "evaluate"))
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = dry_run(namespace, pod, check=False)
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted' in refused.stderr


def test_the_namespace_refuses_what_its_quota_does_not_hold(namespace):
    pod = pod_of(of(render("stages.train.gpu.count=17"), "Job", "train"))
    refused = dry_run(namespace, pod, check=False)
    assert "exceeded quota: qatune, requested: requests.nvidia.com/gpu=17" in refused.stderr


def test_a_pod_that_asks_for_nothing_gets_the_defaults(namespace):
    pod = pod_of(of(render(), "Job", "evaluate"))
    del pod["spec"]["containers"][0]["resources"]
    said = namespace.kubectl(
        "create", "--filename", "-", "--dry-run=server", "--output=json", stdin=json.dumps(pod)
    )
    assert json.loads(said.stdout)["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "100m", "memory": "256Mi"},
        "limits": {"memory": "2Gi"},
    }


@pytest.fixture
def kueue():
    """The CRDs' stand-ins, unless the cluster has Kueue itself."""
    e2e.require()
    crds = [crd["metadata"]["name"] for crd in yaml.safe_load_all(CRDS.read_text())]
    there = e2e.run("kubectl", "get", "crd", crds[0], check=False).returncode == 0
    if not there:
        e2e.run("kubectl", "create", "--filename", CRDS)
        e2e.run("kubectl", "wait", "--for=condition=Established", "--timeout=30s", "crd", *crds)
    yield
    if not there:
        e2e.run("kubectl", "delete", "--filename", CRDS)


def test_the_cluster_takes_the_queues(namespace, kueue):
    for each in objects("kueue"):
        if "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = namespace.name
        dry_run(namespace, each)
        each["spec"] = each.get("spec", {}) | {"cohort": "all"}
        refused = dry_run(namespace, each, check=False)
        assert 'unknown field "spec.cohort"' in refused.stderr


@pytest.fixture
def seaweed_image():
    build = os.environ.get("IMAGE_BUILD")
    if not build:
        pytest.skip("IMAGE_BUILD does not say how images are built and brought to the nodes")
    folder = Path(__file__).with_name("seaweed")
    base = os.environ.get("BASE_IMAGE")
    arguments = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    e2e.run(*shlex.split(build), SEAWEED, "-f", folder / "Dockerfile", *arguments, folder)
    return SEAWEED


def on_no_disk(image):
    """Change the trial S3 for a cluster without storage classes, and without its own image."""
    spec = {
        "template": {
            "spec": {
                "containers": [{"name": "seaweedfs", "image": image}],
                "volumes": [{"name": "data", "emptyDir": {}}],
            }
        },
        "volumeClaimTemplates": None,
    }
    meta = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s3"}}
    return {"patch": yaml.safe_dump(meta | {"spec": spec})}


def test_the_cluster_takes_the_trial_s3(namespace, tmp_path):
    said = apply(tmp_path, "s3-trial", namespace.name, (), "--dry-run=server", "--validate=strict")
    assert "Warning" not in said.stderr


def test_a_run_writes_to_the_trial_s3_and_reads_from_it(namespace, tmp_path, seaweed_image):
    namespace.kubectl(
        "create", "secret", "generic", "s3-keys",
        "--from-literal=AWS_ACCESS_KEY_ID=trial", "--from-literal=AWS_SECRET_ACCESS_KEY=trial-key",
    )  # fmt: skip
    apply(tmp_path, "s3-trial", namespace.name, [on_no_disk(seaweed_image)])
    namespace.kubectl("rollout", "status", "statefulset/s3", "--timeout=60s")
    assert written(namespace, "first") == "Succeeded"
    namespace.kubectl("exec", "s3-0", "--", "sh", "-c", "kill 1")
    wait_for("the server's second start", 60, lambda: restarted(namespace))
    assert written(namespace, "after-a-restart") == "Succeeded"


def restarted(namespace):
    (status,) = namespace.get("pod", "s3-0")["status"]["containerStatuses"]
    return status["restartCount"] == 1 and status["ready"]


def written(namespace, name):
    """Let a pod of a run probe the bucket; return how it ended."""
    registry, _, tag = os.environ["QATUNE_E2E_IMAGES"].rpartition(":")
    store = ("store.uri=s3://qatune/runs", "store.endpoint=http://s3:8333", "store.secret=s3-keys")
    settings = (*store, f"image.registry={registry.rstrip('/')}", f"image.tag={tag}")
    pod = pod_of(of(render(*settings), "Job", "evaluate"))
    pod["metadata"]["name"] = name
    pod["spec"]["volumes"] = [each for each in pod["spec"]["volumes"] if "emptyDir" in each]
    (container,) = pod["spec"]["containers"]
    container |= {"args": ["doctor"], "resources": {}}
    container["volumeMounts"] = [
        each for each in container["volumeMounts"] if each["name"] == "scratch"
    ]
    namespace.kubectl("apply", "--filename", "-", stdin=json.dumps(pod))

    def ended():
        phase = namespace.get("pod", name)["status"]["phase"]
        return phase if phase in {"Succeeded", "Failed"} else None

    phase = wait_for(f"the end of {name}", 60, ended)
    assert phase == "Succeeded", namespace.kubectl("logs", name).stdout
    return phase
