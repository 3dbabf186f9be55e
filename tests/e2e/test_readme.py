"""The README's section on clusters, command by command, on a real cluster.

Its one run is watched while it goes, and its training pod is killed once.
"""

import json
import os
import re
import subprocess
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

import pytest
from tests.support import e2e
from tests.support.chart import STAGES
from tests.support.waiting import wait_for

from qatune.store import manifests
from qatune.store.manifests import manifest_key

NAMESPACE = "qatune"
SECTION = re.compile(r"^## On a cluster\n(.*?)^## ", re.DOTALL | re.MULTILINE)
KILL = (
    "import os, signal\n"
    "for name in filter(str.isdigit, os.listdir('/proc')):\n"
    "    words = open(f'/proc/{name}/cmdline', 'rb').read().split(b'\\0')\n"
    "    if b'train' in words and b'--run' in words and name != '1':\n"
    "        os.kill(int(name), signal.SIGKILL)\n"
)


def commands():
    """Return the commands of the section's consoles, in order."""
    (section,) = SECTION.findall((e2e.ROOT / "README.md").read_text(encoding="utf-8"))
    lines = section.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line[2:]) for line in lines if line.startswith("$ ")]


@dataclass
class Watch:
    """What was seen while the run went: pods and Jobs, twice a second."""

    requests: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """GPUs that any pod of the run asked for while this stage had one."""
    killed: str | None = None
    problems: list[str] = field(default_factory=list)


class Walk:
    """Runs the section's commands one after the other."""

    def __init__(self, folder, bucket):
        self.bucket = bucket
        self.namespace = e2e.Namespace(NAMESPACE)
        registry, _, tag = os.environ["QATUNE_E2E_IMAGES"].rpartition(":")
        self.env = os.environ | {"REGISTRY": registry.rstrip("/"), "TAG": tag}
        self.env["PATH"] = f"{e2e.ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        self.files = {
            "mine.yaml": e2e.written(folder, e2e.values(bucket) | {"generate": {"shards": 2}}),
            "s3-keys.env": folder / "s3-keys.env",
        }
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        self.files["s3-keys.env"].write_text("".join(f"{key}={os.environ[key]}\n" for key in keys))
        self.output = {}
        self.watch = Watch()

    def do(self, command, **changes):
        for name, path in self.files.items():
            command = command.replace(f" {name}", f" {path}").replace(f"={name}", f"={path}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            capture_output=True, text=True, timeout=1500, check=False, cwd=e2e.ROOT,
            env=self.env | changes,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def watched(self, stop):
        while not stop.is_set():
            try:
                self._look()
            except (AssertionError, ValueError, KeyError) as error:
                self.watch.problems.append(repr(error))
            stop.wait(0.5)

    def _look(self):
        pods = self.namespace.get("pods", "--selector", "app.kubernetes.io/instance=mine")
        active = [pod for pod in pods if pod["status"]["phase"] in {"Pending", "Running"}]
        for stage in {_component(pod) for pod in active} & set(STAGES):
            self.watch.requests[stage] |= {
                container["resources"].get("requests", {}).get("nvidia.com/gpu", "0")
                for pod in active
                for container in pod["spec"]["containers"]
            }
        if self.watch.killed is None and self._steps() >= 10:
            self._kill([pod for pod in active if _component(pod) == "train"])

    def _steps(self):
        """Return the step of the newest checkpoint that is complete."""
        keys = self.bucket.store.keys("runs/mine/train/checkpoints/")
        return max((_step(key) for key in keys if key.endswith("/checkpoint.json")), default=0)

    def _kill(self, pods):
        for pod in pods:
            name = pod["metadata"]["name"]
            self.namespace.kubectl("exec", name, "--", "python", "-c", KILL)
            self.watch.killed = name


def _component(pod):
    return pod["metadata"]["labels"].get("app.kubernetes.io/component")


def _step(key):
    return int(re.search(r"/step-(\d+)/", key)[1])


@pytest.fixture(scope="module")
def walk(bucket, tmp_path_factory):
    """Go as far as the finished run; what comes after it are the tests' own steps."""
    walk = Walk(tmp_path_factory.mktemp("walk"), bucket)
    found = e2e.run("kubectl", "get", "namespace", NAMESPACE, "--ignore-not-found").stdout
    assert not found, f"namespace {NAMESPACE} is in use: this test would make and delete it"
    stop = threading.Event()
    watcher = threading.Thread(target=walk.watched, args=(stop,))
    try:
        for command in commands():
            if command.startswith("helm upgrade"):
                break
            if command.startswith("helm install"):
                walk.output["install"] = walk.do(command)
                watcher.start()
                continue
            walk.output[" ".join(command.split()[:2])] = walk.do(command)
        stop.set()
        watcher.join()
        yield walk
    finally:
        stop.set()
        e2e.run("helm", "uninstall", "mine", "--namespace", NAMESPACE, check=False)
        e2e.run("kubectl", "delete", "namespace", NAMESPACE, "--wait=false", check=False)


def remaining(verb):
    (found,) = [command for command in commands() if command.startswith(verb)]
    return found


def times(namespace):
    """Return when each stage's pods were scheduled first, and when its Job was complete."""
    scheduled, complete = {}, {}
    for stage, job in namespace.jobs("mine").items():
        found = [each for pod in namespace.pods("mine", stage) if (each := _scheduled(pod))]
        scheduled[stage] = min(found)
        complete[stage] = datetime.fromisoformat(job["status"]["completionTime"])
    return scheduled, complete


def _scheduled(pod):
    for found in pod["status"].get("conditions", []):
        if found["type"] == "PodScheduled" and found["status"] == "True":
            return datetime.fromisoformat(found["lastTransitionTime"])
    return None


def test_all_stages_are_complete_in_order(walk):
    assert not walk.watch.problems
    jobs = walk.namespace.jobs("mine")
    assert {name: e2e.condition(job) for name, job in jobs.items()} == dict.fromkeys(
        (*STAGES, "coordinator"), "Complete"
    )
    scheduled, complete = times(walk.namespace)
    for before, after in pairwise(STAGES):
        seconds = (scheduled[after] - complete[before]).total_seconds()
        assert 0 <= seconds <= 3, f"{after} {seconds} s after {before}"


def test_the_namespace_is_restricted(walk):
    (found,) = [e2e.json.loads(e2e.run("kubectl", "get", "ns", NAMESPACE, "-ojson").stdout)]
    assert found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_gpu_is_asked_for_while_a_cpu_stage_runs(walk):
    assert walk.watch.requests["preprocess"] == {"0"}
    assert walk.watch.requests["evaluate"] == {"0"}
    assert walk.watch.requests["train"] == {"0", "1"}  # the coordinator's, and its own


def test_the_bucket_holds_the_run_with_its_chain(walk):
    store = walk.bucket.store
    chain = {stage: manifests.load(store, "mine", stage) for stage in STAGES}
    for stage, parents in {
        "preprocess": (), "train": ("preprocess",), "generate": ("preprocess", "train"),
        "evaluate": ("generate",),
    }.items():  # fmt: skip
        manifest, _ = chain[stage]
        assert dict(manifest.parents) == {name: chain[name][1] for name in parents}
        assert manifest.image == f"{walk.env['REGISTRY']}/qatune-{image(stage)}:{walk.env['TAG']}"
        assert all(store.stat(ref.key) for ref in manifest.outputs)
    keys = set(store.keys("runs/mine/"))
    assert "runs/mine/train/adapter/adapter_model.safetensors" in keys
    assert "runs/mine/evaluate/report.html" in keys
    assert chain["generate"][0].counters["answers"] == 48


def image(stage):
    return stage if stage in {"train", "generate"} else "preprocess"


def test_the_killed_training_went_on_from_its_checkpoint(walk):
    assert walk.watch.killed
    train = walk.bucket.manifest("mine", "train")
    assert train.counters["resumed_from_step"] >= 10
    lines = walk.bucket.store.read("runs/mine/train/metrics.jsonl").splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == list(range(1, 61))


def test_helm_test_passed(walk):
    for stage in STAGES:
        assert re.search(rf"TEST SUITE:\s+mine-test-{stage}\n.*\n.*\nPhase:\s+Succeeded",
                         walk.output["helm test"]), walk.output["helm test"]  # fmt: skip


def test_status_and_explain_say_how_it_is(walk):
    shown = walk.do("qatune status mine --namespace qatune")
    for stage in STAGES:
        assert re.search(rf"{stage}\b.*complete", shown), shown
    said = walk.do("qatune explain mine --namespace qatune")
    assert "complete" in said
    assert f"{walk.bucket.uri}/store/runs/mine/evaluate/report.html" in said


def test_an_upgrade_with_another_note_restarts_nothing(walk):
    before = identities(walk)
    walk.do(remaining("helm upgrade"))
    time.sleep(3)
    assert identities(walk) == before
    (kept,) = [
        found
        for found in walk.namespace.get("configmaps")
        if found["metadata"]["name"] == "mine-run"
    ]
    assert kept["data"]["note"]


def identities(walk):
    """Name every Job and pod of the run, and whether the Job is suspended."""
    selector = ("--selector", "qatune/run=mine")
    jobs = {
        (job["metadata"]["uid"], job["spec"].get("suspend"))
        for job in walk.namespace.get("jobs", *selector)
    }
    return jobs | {pod["metadata"]["uid"] for pod in walk.namespace.get("pods", *selector)}


def test_uninstall_leaves_nothing_here_and_the_run_there(walk):
    before = dict.fromkeys(walk.bucket.store.keys("runs/mine/"))
    walk.do(remaining("helm uninstall"))
    wait_for("an empty namespace", 120, lambda: not leftovers(walk.namespace))
    assert dict.fromkeys(walk.bucket.store.keys("runs/mine/")) == before
    assert manifest_key("mine", "evaluate") in before


def leftovers(namespace):
    """Name what the release made, of every kind that a namespace can hold."""
    kinds = e2e.run(
        "kubectl", "api-resources", "--namespaced", "--verbs=list", "--output=name"
    ).stdout.split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    found = namespace.kubectl(
        "get", ",".join(kinds), "--output=name", "--ignore-not-found"
    ).stdout.split()
    return [name for name in found if "mine" in name]
