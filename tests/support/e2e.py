"""Runs of the chart on the cluster that KUBECONFIG names, with a bucket that its pods reach.

QATUNE_E2E_IMAGES says which images: `registry/` before `qatune-train` and so on, and the tag after
a colon, as in `localhost/:0.1.0-cpu`. The AWS_* variables name the S3 server, as for any client;
QATUNE_TEST_DATA the folder of `mbpp.csv`, the questions of the MBPP data set with task_id, question
and answer.
"""

import json
import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from qatune.store import manifests
from qatune.store.opening import open_store
from tests.support.tiny import tiny_gpt2
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
BUCKET = "qatune-e2e"
NEEDED = ("KUBECONFIG", "AWS_ENDPOINT_URL_S3", "QATUNE_E2E_IMAGES")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def require(*more):
    """Skip the test, or fail it if QATUNE_REQUIRE_CLUSTER is 1, where there is no cluster."""
    missing = [name for name in (*NEEDED, *more) if not os.environ.get(name)]
    missing += [name for name in ("kubectl", "helm") if not shutil.which(name)]
    if missing:
        must = os.environ.get("QATUNE_REQUIRE_CLUSTER") == "1"
        (pytest.fail if must else pytest.skip)(f"no cluster to test on: {', '.join(missing)}")


def run(*command, stdin=None, check=True, timeout=300):
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


@dataclass
class Namespace:
    """A namespace under Pod Security `restricted`, with the store's keys in a secret."""

    name: str
    releases: list[str] = field(default_factory=list)

    def kubectl(self, *arguments, **options):
        return run("kubectl", "--namespace", self.name, *arguments, **options)

    def get(self, *arguments):
        found = json.loads(self.kubectl("get", *arguments, "--output", "json").stdout)
        return found.get("items", found)

    def jobs(self, release):
        """Return the Jobs of a release by component."""
        found = self.get("jobs", "--selector", f"app.kubernetes.io/instance={release}")
        return {job["metadata"]["labels"]["app.kubernetes.io/component"]: job for job in found}

    def pods(self, release, component):
        selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/component={component}"
        return self.get("pods", "--selector", selector)

    def follow(self, pod):
        """Read a pod's log from now on, to its end: `communicate()` returns it."""
        command = ("kubectl", "--namespace", self.name, "logs", "--follow", pod)
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def install(self, release, *given, command="install", **options):
        """Install or upgrade with values files (paths) and single values (texts)."""
        if command == "install":
            self.releases.append(release)
        values = [
            part
            for each in given
            for part in ("--values" if isinstance(each, Path) else "--set", each)
        ]
        chart = ROOT / "helm" / "qatune"
        return run("helm", command, release, chart, "--namespace", self.name, *values, **options)

    def uninstall(self, release):
        run("helm", "uninstall", release, "--namespace", self.name, "--wait")
        self.releases.remove(release)

    def ends(self, release, component, seconds=300):
        """Wait until a component's Job is over; return `Complete` or `Failed`."""
        return wait_for(
            f"the end of {component}", seconds, lambda: condition(self.jobs(release)[component])
        )


def condition(job):
    """Say how a Job ended; nothing while it has not."""
    for found in job["status"].get("conditions", []):
        if found["type"] in {"Complete", "Failed"} and found["status"] == "True":
            return found["type"]
    return None


def namespace():
    """Make a namespace for a test module, and take it away with all that is in it."""
    name = f"qatune-e2e-{uuid.uuid4().hex[:6]}"
    made = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": RESTRICTED},
    }
    run("kubectl", "apply", "--filename", "-", stdin=json.dumps(made))
    found = Namespace(name)
    try:
        found.kubectl("create", "secret", "generic", "s3-keys", *secret_literals())
        yield found
    finally:
        for release in list(found.releases):
            run("helm", "uninstall", release, "--namespace", name, check=False)
        run("kubectl", "delete", "namespace", name, "--wait=false")


def secret_literals():
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return [f"--from-literal={name}={os.environ[name]}" for name in names]


@dataclass(frozen=True)
class Bucket:
    """A prefix of its own in the bucket, with a tiny model and real questions."""

    uri: str

    @property
    def store(self):
        return open_store(f"{self.uri}/store")

    def manifest(self, run_name, stage):
        found = manifests.load(self.store, run_name, stage)
        return found and found[0]


def bucket(folder: Path, rows: Path) -> Bucket:
    import boto3

    client = boto3.client("s3")
    if BUCKET not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    prefix = uuid.uuid4().hex[:8]
    _without_dropout(tiny_gpt2(folder, positions=256) / "config.json")
    for path in sorted(folder.iterdir()):
        client.upload_file(str(path), BUCKET, f"{prefix}/model/{path.name}")
    client.upload_file(str(rows), BUCKET, f"{prefix}/rows.csv")
    return Bucket(f"s3://{BUCKET}/{prefix}")


def _without_dropout(config: Path):
    """Take away GPT-2's own dropout, whose masks depend on how a batch is divided."""
    fields = json.loads(config.read_text())
    dropouts = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    config.write_text(json.dumps(fields | dropouts))


def values(bucket: Bucket, **changes) -> dict:
    """A recipe of a few minutes, for a node of two cores; `train={...}` changes the recipe."""
    registry, _, tag = os.environ["QATUNE_E2E_IMAGES"].rpartition(":")
    small = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "3Gi"}}
    recipe = {
        "model": {"source": f"{bucket.uri}/model", "dtype": "float32"},
        "data": {
            "source": f"{bucket.uri}/rows.csv",
            "columns": {"id": "task_id"},
            "max_length": 256,
            "split": {"test_size": 48},
        },
        "train": {
            "max_steps": 60, "save_steps": 5, "eval_steps": 30, "logging_steps": 5,
            "per_device_train_batch_size": 4, "max_length": 256, "learning_rate": 1e-2,
        },
        "generate": {"max_new_tokens": 8, "batch_size": 8, "chunk_rows": 8},
    }  # fmt: skip
    for section, fields in changes.items():
        recipe[section] |= fields
    return {
        "recipe": recipe,
        "store": {
            "uri": f"{bucket.uri}/store",
            "endpoint": os.environ["AWS_ENDPOINT_URL_S3"],
            "region": os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
            "secret": "s3-keys",
        },
        "image": {"registry": registry.rstrip("/"), "tag": tag},
        "stages": {
            stage: {"resources": small, "env": [{"name": "OMP_NUM_THREADS", "value": "2"}]}
            for stage in ("preprocess", "train", "generate", "evaluate")
        },
    }


def written(folder: Path, content: dict, name="mine.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path
