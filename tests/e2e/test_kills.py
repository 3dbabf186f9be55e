"""Whatever is killed, however often: the run ends as one that was left alone.

Two runs of one recipe go side by side. Of one, each stage's pods are killed while they work,
training's three times, each time in another manner; and the coordinator with every stage.
"""

import csv
import io
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support import e2e
from tests.support.chart import STAGES
from tests.support.crashing import OF_THE_MOMENT
from tests.support.qatune_command import qatune
from tests.support.waiting import wait_for

STEPS, SAVE = 48, 6
SHARDS, CHUNKS, ROWS = 2, 24, 4
COMPONENT = "app.kubernetes.io/component"
GOES_ON = re.compile(r'"step": (\d+).*"message": "going on from a checkpoint"')
MEASURED = re.compile(r'"step": (\d+).*"message": "held-out loss"')
STOPPED = re.compile(r"stopped at step (\d+) of \d+, saved")


@dataclass
class Start:
    """A training pod that was killed."""

    manner: str
    saved: int
    """Step of the newest complete checkpoint just before."""
    log: str

    @property
    def reached(self):
        """Return the last step that it was done with, as it measures after each."""
        return max(int(step) for step in MEASURED.findall(self.log))


@dataclass
class Killer:
    """Kills pods of the run `killed`, and keeps what it saw of them."""

    namespace: e2e.Namespace
    bucket: e2e.Bucket
    killed: dict[str, set[str]] = field(default_factory=dict)
    """Uids of the pods by component."""
    starts: list[Start] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)
    """The parts that were there when the pods that answer were killed, with their etags."""

    def running(self, component, count=1):
        """Wait until pods work that have not been killed; they are to be killed next."""
        known = self.killed.setdefault(component, set())

        def found():
            pods = self.namespace.pods("killed", component)
            fresh = [pod for pod in pods if pod["metadata"]["uid"] not in known and at_work(pod)]
            return len(fresh) == count and fresh

        pods = wait_for(f"{count} pods of {component}", 120, found)
        known |= {pod["metadata"]["uid"] for pod in pods}
        return pods

    def delete(self, *pods, options=()):
        """Ask them to end, and wait until they are gone; fail where one is gone already."""
        self.namespace.kubectl("delete", "pod", *map(name, pods), *options)

    def force(self, *pods):
        """Forget them at once, as when a node is lost: whatever still runs is killed later."""
        self.delete(*pods, options=("--force", "--grace-period=0"))

    def sigkill(self, *pods):
        """Kill all processes but the first, which may not be killed from within; it ends then."""
        for pod in pods:
            command = ("sh", "-c", "kill -s KILL -- -1")
            self.namespace.kubectl("exec", name(pod), "--", *command, check=False)

    def drain(self, *pods):
        """Evict them, as when their node is to be mended."""
        node = pods[0]["spec"]["nodeName"]
        of = ",".join(pod["metadata"]["labels"][COMPONENT] for pod in pods)
        selector = f"app.kubernetes.io/instance=killed,{COMPONENT} in ({of})"
        options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s")
        try:
            e2e.run("kubectl", "drain", node, f"--pod-selector={selector}", *options)
        finally:
            e2e.run("kubectl", "uncordon", node)

    def train(self, manner, *others):
        """Let training get to another checkpoint, then kill it."""
        (pod,) = self.running("train")
        log = self.namespace.follow(name(pod))
        before = self.saved()  # by a pod that has ended: only one trains at a time
        wait_for("a new checkpoint", 120, lambda: self.saved() > before)
        saved = self.saved()
        manner(pod, *others)
        self.starts.append(Start(manner.__name__, saved, log.communicate(timeout=60)[0]))

    def saved(self):
        keys = self.bucket.store.keys("runs/killed/train/checkpoints/")
        return max((step(key) for key in keys if key.endswith("/checkpoint.json")), default=0)

    def answered(self):
        """Return the parts with their etags, once each shard has saved one."""
        keys = list(self.bucket.store.keys("runs/killed/generate/parts/"))
        shards = {key.rsplit("-", 1)[0] for key in keys}
        return len(shards) == SHARDS and {key: self.bucket.store.stat(key).etag for key in keys}


def name(pod):
    return pod["metadata"]["name"]


def at_work(pod):
    return pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]


def step(key):
    return int(re.search(r"/step-(\d+)/", key)[1])


def questions():
    """Return real questions, and two that must become errors: an empty and an endless one."""
    path = Path(os.environ["QATUNE_TEST_DATA"]) / "mbpp.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["task_id"], row["question"], row["answer"]) for row in csv.DictReader(file)]
    asked = rows[: SHARDS * CHUNKS * ROWS - 2]
    asked[5:5] = [("empty", "", "nothing"), ("endless", "why? " * 300, "so")]
    text = io.StringIO()
    csv.writer(text).writerows([("task_id", "question", "answer"), *asked])
    return text.getvalue().encode()


@pytest.fixture(scope="module")
def killer(bucket, namespace, tmp_path_factory):
    bucket.store.create("asked.csv", questions())
    values = e2e.values(
        bucket,
        data={"split": {"test_size": 8}},
        train={"max_steps": STEPS, "save_steps": SAVE, "eval_steps": 1},
        generate={"input": f"{bucket.uri}/store/asked.csv", "chunk_rows": ROWS, "batch_size": ROWS},
    )
    path = e2e.written(tmp_path_factory.mktemp("values"), values | {"generate": {"shards": SHARDS}})
    for release in ("alone", "killed"):
        namespace.install(release, path)
    killer = Killer(namespace, bucket)
    killer.drain(*killer.running("preprocess"), *killer.running("coordinator"))
    killer.train(killer.sigkill)
    killer.train(killer.delete, *killer.running("coordinator"))
    killer.train(killer.drain)
    pods = killer.running("generate", SHARDS) + killer.running("coordinator")
    killer.parts = wait_for("parts of each shard", 60, killer.answered)
    killer.delete(*pods)
    coordinator = killer.running("coordinator")  # or evaluate would be over when there is one
    killer.force(*killer.running("evaluate"), *coordinator)
    for release in ("killed", "alone"):
        assert namespace.ends(release, "coordinator") == "Complete"
    return killer


def outputs(bucket, run_name, stage):
    """Return the SHA-256 of what a stage wrote, by its name in the run."""
    manifest = bucket.manifest(run_name, stage)
    found = {ref.key.removeprefix(f"runs/{run_name}/"): ref.sha256 for ref in manifest.outputs}
    found.pop("evaluate/report.html", None)  # it shows the run's name and its times
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_the_killed_run_ends_as_the_one_left_alone(killer, stage):
    alone = outputs(killer.bucket, "alone", stage)
    assert alone
    assert outputs(killer.bucket, "killed", stage) == alone
    counted = [
        {what: count for what, count in manifest.counters.items() if what not in OF_THE_MOMENT}
        for run_name in ("alone", "killed")
        if (manifest := killer.bucket.manifest(run_name, stage))
    ]
    assert counted[0] == counted[1]


def test_it_was_no_empty_comparison(killer):
    found = outputs(killer.bucket, "killed", "train") | outputs(killer.bucket, "killed", "generate")
    assert {"train/metrics.jsonl", "train/adapter/adapter_model.safetensors"} < set(found)
    assert sum("/parts/" in key for key in found) == SHARDS * CHUNKS
    assert killer.bucket.manifest("killed", "generate").counters["errors"] == 2


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_killed_was_at_work(killer, stage):
    """Or nothing would be proven: it is others that came to the end."""
    job = killer.namespace.jobs("killed")[stage]
    pods = killer.namespace.pods("killed", stage)
    ended = {pod["metadata"]["uid"] for pod in pods if pod["status"]["phase"] == "Succeeded"}
    assert e2e.condition(job) == "Complete"
    assert len(ended) == job["status"]["succeeded"] == (SHARDS if stage == "generate" else 1)
    assert len(killer.killed[stage]) == {"train": 3, "generate": SHARDS}.get(stage, 1)
    assert not ended & killer.killed[stage]


def test_training_goes_on_from_its_last_checkpoint(killer):
    (pod,) = [pod for pod in killer.namespace.pods("killed", "train") if is_last(pod)]
    last = killer.namespace.kubectl("logs", name(pod)).stdout
    logs = [start.log for start in killer.starts[1:]] + [last]
    for start, log in zip(killer.starts, logs, strict=True):
        (goes_on,) = map(int, GOES_ON.findall(log))
        assert start.saved <= goes_on
        # A checkpoint may still be on its way when the steps after it are made.
        assert start.reached - goes_on <= SAVE + 1, start.manner
        if start.manner in {"delete", "drain"}:
            assert [str(goes_on)] == STOPPED.findall(start.log)
    assert killer.bucket.manifest("killed", "train").counters["resumed_from_step"] == goes_on


def is_last(pod):
    return pod["status"]["phase"] == "Succeeded"


def test_the_journal_has_each_step_once(killer):
    lines = killer.bucket.store.read("runs/killed/train/metrics.jsonl").splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == list(range(1, STEPS + 1))


def test_answers_that_were_saved_are_not_made_again(killer):
    assert SHARDS <= len(killer.parts) < SHARDS * CHUNKS
    stat = killer.bucket.store.stat
    assert {key: stat(key).etag for key in killer.parts} == killer.parts
    logs = [
        killer.namespace.kubectl("logs", name(pod)).stdout
        for pod in killer.namespace.pods("killed", "generate")
    ]
    assert not [log for log in logs if "already answered by another worker" in log]


def test_the_killed_run_is_whole(killer):
    done = qatune("verify", "killed", "--store", f"{killer.bucket.uri}/store")
    assert done.returncode == 0, done.stdout + done.stderr
