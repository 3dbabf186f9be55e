"""A namespace of a real cluster, and Jobs in it like the chart's.

The cluster is the one that KUBECONFIG names. Pods run the preprocess image of QATUNE_E2E_IMAGES
(see tests.support.e2e), for its shell alone.
"""

import json
import os
import shutil
import subprocess
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

NEEDED = ("KUBECONFIG", "QATUNE_E2E_IMAGES")
RUN = "finished"  # the name of the run that tests.support.finished_run makes
STAGES = ("preprocess", "train", "generate", "evaluate")


def require():
    """Skip the test, or fail it if QATUNE_REQUIRE_CLUSTER is 1, where there is no cluster."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    missing += [] if shutil.which("kubectl") else ["kubectl"]
    if missing:
        must = os.environ.get("QATUNE_REQUIRE_CLUSTER") == "1"
        (pytest.fail if must else pytest.skip)(f"no cluster to test on: {', '.join(missing)}")


def image():
    registry, _, tag = os.environ.get("QATUNE_E2E_IMAGES", ":test").rpartition(":")
    return f"{registry}qatune-preprocess:{tag}"


@dataclass(frozen=True)
class Namespace:
    name: str

    def kubectl(self, *arguments, given=None):
        done = subprocess.run(
            ["kubectl", "--namespace", self.name, *map(str, arguments)],
            check=False,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout

    def apply(self, *objects):
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("create", "-f", "-", given=json.dumps(listed))

    def get(self, kind, name=None, selector=None):
        names = [name] if name else []
        selected = ["--selector", selector] if selector else []
        found = json.loads(self.kubectl("get", kind, *names, *selected, "--output", "json"))
        return found if name else found["items"]

    def patch(self, kind, name, patch, *arguments):
        text = json.dumps(patch)
        self.kubectl("patch", kind, name, "--type", "merge", "--patch", text, *arguments)

    def delete(self, *arguments):
        self.kubectl("delete", *arguments, "--wait=false", "--ignore-not-found")


@contextmanager
def namespace(prefix, level="restricted"):
    name = f"{prefix}-{uuid.uuid4().hex[:6]}"
    space = Namespace(name)
    meta = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}}
    space.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    try:
        yield space
    finally:
        space.kubectl("delete", "namespace", name, "--wait=false")


def eventually(check, seconds=30, pause=0.2):
    """Return what `check` returns as soon as it is true; fail after some seconds."""
    until = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < until, f"not so after {seconds} s; last: {found!r}"
        time.sleep(pause)


def stage_job(stage, script="exit 0", *, release="demo", run=RUN, pod=None, container=None, **spec):
    """Make a stage's Job as the chart does: suspended, restricted, with its failure policy."""
    labels = {
        "app.kubernetes.io/name": "qatune",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": stage,
        "qatune/run": run,
        "qatune/attempt": "1",
    }
    position = STAGES.index(stage) if stage in STAGES else 0
    notes = {"qatune/after": STAGES[position - 1]} if position else {}
    fields = {
        "suspend": True,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _rules(stage, each="backoffLimitPerIndex" in spec)},
        "template": {"metadata": {"labels": labels}, "spec": _pod(stage, script, pod, container)},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{release}-{stage}", "labels": labels, "annotations": notes},
        "spec": fields | spec,
    }


def _rules(stage, *, each):
    codes = {"containerName": stage, "operator": "In"}
    return [
        {"action": "Ignore", "onExitCodes": codes | {"values": [75]}},
        {
            "action": "FailIndex" if each else "FailJob",
            "onExitCodes": codes | {"values": [64, 65, 66, 77, 78]},
        },
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _pod(stage, script, pod, container):
    made = {
        "name": stage,
        "image": image(),
        "command": ["sh", "-c", script],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [made | (container or {})],
    } | (pod or {})


def with_kueue(job, queue="gpus"):
    """Park a Job as the chart does where Kueue is used."""
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "qatune-parked"
    job["metadata"]["annotations"]["qatune/queue"] = queue
    return job


def coordinator_rights(release, jobs):
    """Make an account that may do what the chart allows its coordinator, and nothing else."""
    meta = {"name": f"{release}-coordinator"}
    rules = [
        _rule("batch", "jobs", [job["metadata"]["name"] for job in jobs], ["get", "patch"]),
        _rule("", "events", [meta["name"]], ["create", "patch"]),
    ]
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "Role"} | meta,
            "subjects": [{"kind": "ServiceAccount"} | meta],
        },
    ]


def _rule(group, resource, names, verbs):
    return {"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": verbs}


def kubeconfig_of(space, account, folder):
    """Write a kubeconfig that is nothing but the account's own token."""
    view = ("config", "view", "--minify", "--raw", "--flatten", "--output", "json")
    raw = json.loads(space.kubectl(*view))
    token = space.kubectl("create", "token", account).strip()
    user = {"name": account, "user": {"token": token}}
    context = {"cluster": raw["clusters"][0]["name"], "user": account, "namespace": space.name}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": raw["clusters"],
        "users": [user],
        "contexts": [{"name": account, "context": context}],
        "current-context": account,
    }
    path = folder / f"{account}.kubeconfig"
    path.write_text(json.dumps(config))
    return path
