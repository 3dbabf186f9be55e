"""Jobs that cannot run, and what `qatune explain` says of each.

The same on a real cluster (tests/cluster/test_explain.py) and on what one has answered
(tests/cluster/recorded.json, written by `python -m tests.support.broken`).
"""

import json
import re
import sys
import time
from pathlib import Path

from tests.support.cluster import Namespace, image, namespace, stage_job

RECORDED = Path(__file__).parents[1] / "cluster" / "recorded.json"
KINDS = ("jobs", "pods", "events", "resourcequotas")
UPGRADE = (
    "helm upgrade {run} CHART --namespace {namespace} --reset-then-reuse-values --set run.attempt=2"
)


def _resources(**resources):
    return {"resources": resources}


def _volume(source):
    pod = {"volumes": [{"name": "it", **source}]}
    return pod, {"volumeMounts": [{"name": "it", "mountPath": "/it"}]}


_NO_MAP, _MOUNTED = _volume({"configMap": {"name": "no-recipe"}})
_SMALL_DISK, _ = _volume({"emptyDir": {"sizeLimit": "10Mi"}})
_NO_SECRET = {"valueFrom": {"secretKeyRef": {"name": "no-keys", "key": "AWS_ACCESS_KEY_ID"}}}

# run: what its train Job is made of, and the sentence
BROKEN = {
    "image": (
        {"container": {"image": "localhost/no-such-image:1"}},
        (
            r"train: image cannot be pulled: localhost/no-such-image:1: .+; if the name is wrong, "
            rf"correct it with {UPGRADE}"
        ),
    ),
    "image-name": (
        {"container": {"image": "Not A Name"}},
        (
            r"train: image cannot be pulled: Not A Name: invalid reference format: .+ must be "
            r"lowercase; .+"
        ),
    ),
    "secret": (
        {"container": {"env": [{"name": "AWS_ACCESS_KEY_ID", **_NO_SECRET}]}},
        (
            r'train cannot start: secret "no-keys" not found; create it in namespace {namespace} '
            r"and the stage starts by itself"
        ),
    ),
    "config-map": (
        {"pod": _NO_MAP, "container": _MOUNTED},
        (
            r'train cannot start: configmap "no-recipe" not found; create it in namespace '
            r"{namespace} and the stage starts by itself"
        ),
    ),
    "gpus": (
        {"container": _resources(limits={"nvidia.com/gpu": "900"})},
        (
            r"train waits for 900 nvidia.com/gpu; 0 of \d+ nodes? fits?: .*(has|have) "
            r"(only \d+ nvidia.com/gpu in all|no nvidia.com/gpu|taint).*"
        ),
    ),
    "selector": (
        {"pod": {"nodeSelector": {"pool": "of-no-node"}}},
        (
            r"train waits for a node with label pool=of-no-node; 0 of \d+ nodes? fits?: .*"
            r"other labels.*"
        ),
    ),
    "memory": (
        {
            "script": "tail /dev/zero",
            "container": _resources(limits={"memory": "32Mi"}),
            "backoffLimit": 0,
        },
        (
            r"train was killed for memory at its limit of 32Mi; raise "
            rf"stages.train.resources.limits.memory, then {UPGRADE}"
        ),
    ),
    "security": (
        {"container": {"securityContext": {}}},
        (
            r"train gets no pod: namespace {namespace} enforces Pod Security restricted, which "
            r"forbids allowPrivilegeEscalation != false .+"
        ),
    ),
    "data": (
        {"script": "echo \"65: column 'answer' not found\" > /dev/termination-log; exit 65"},
        rf"train failed with 65: column 'answer' not found; mend it, then {UPGRADE}",
    ),
    "crash": (
        {"script": "exit 1", "backoffLimit": 0},
        (
            r"train failed with exit code 1 \(an error outside of qatune\); its log: kubectl logs "
            rf"crash-train-\w+ --namespace {{namespace}}; mend it, then {UPGRADE}"
        ),
    ),
    "command": (
        {"container": {"command": ["/nowhere"]}, "backoffLimit": 0},
        rf"train failed with 128: .+/nowhere: no such file or directory.+; mend it, then {UPGRADE}",
    ),
    "disk": (
        {
            "script": "dd if=/dev/zero of=/it/x bs=1M count=64; sleep 100",
            "pod": _SMALL_DISK,
            "container": _MOUNTED,
            "backoffLimit": 0,
        },
        (
            r'train was evicted: Usage of EmptyDir volume "it" exceeds the limit "10Mi"; mend it, '
            rf"then {UPGRADE}"
        ),
    ),
    "account": (
        {"pod": {"serviceAccountName": "nobody"}},
        r'train gets no pod: .+serviceaccount "nobody" not found',
    ),
    "priority": (
        {"pod": {"priorityClassName": "none-such"}},
        r"train gets no pod: no PriorityClass with name none-such was found",
    ),
}

# In a namespace whose quota is used up.
QUOTA = {"pods": "3", "requests.nvidia.com/gpu": "1", "requests.memory": "1Gi"}
OVER_QUOTA = {
    "quota": (
        {"container": _resources(requests={"memory": "64Mi"}, limits={"nvidia.com/gpu": "2"})},
        (
            r"train gets no pod: quota team of namespace {namespace} allows no more: a pod asks "
            r"for 2 requests.nvidia.com/gpu, and 0 of 1 is used"
        ),
    ),
    "no-request": (
        {},
        (
            r"train gets no pod: quota team of namespace {namespace} wants requests.memory to be "
            r"given; set it under stages.train.resources"
        ),
    ),
}


def deploy(space: Namespace, cases):
    made = [
        stage_job("train", release=run, run=run, suspend=False, **given)
        for run, (given, _) in cases.items()
    ]
    space.apply(*made)


def limit(space: Namespace):
    meta = {"name": "team"}
    space.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": QUOTA}}
    )


def sentence(cases, run, namespace_name):
    """Return the pattern of what is said of a run."""
    return cases[run][1].replace("{namespace}", namespace_name).replace("{run}", run)


def record():
    """Write what a real cluster says of all of them: what is read of it, and nothing of its own."""
    with namespace("broken") as plain, namespace("quota") as limited:
        limit(limited)
        deploy(plain, BROKEN)
        deploy(limited, OVER_QUOTA)
        time.sleep(60)
        spaces = {"broken": plain, "quota": limited}
        found = {"nodes": [_plain_node(each) for each in plain.get("nodes")]}
        found |= {
            f"{name}/{kind}": space.get(kind) for name, space in spaces.items() for kind in KINDS
        }
        names = {space.name: name for name, space in spaces.items()}
    names |= {node["metadata"]["name"]: f"node-{n}" for n, node in enumerate(found["nodes"], 1)}
    names |= {image(): "registry.example.com/qatune-preprocess:1"}
    lines = [
        f'"{name}": [\n' + ",\n".join(json.dumps(_kept(each, KEPT)) for each in objects) + "\n]"
        for name, objects in found.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    for theirs, ours in names.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(theirs)}(?![\w.-])", ours, text)
    RECORDED.write_text(text)


def _plain_node(found):
    """Leave a node with its name and its room."""
    meta = {"name": found["metadata"]["name"]}
    return {"metadata": meta, "spec": {}, "status": {"allocatable": found["status"]["allocatable"]}}


_META = ("name", "namespace", "uid", "resourceVersion", "labels", "annotations")
KEPT = {
    "metadata": dict.fromkeys((*_META, "creationTimestamp", "deletionTimestamp")),
    "spec": {
        **dict.fromkeys(("suspend", "completions", "completionMode", "nodeName", "tolerations")),
        **dict.fromkeys(("nodeSelector", "taints", "hard")),
        "containers": dict.fromkeys(("name", "image", "resources")),
    },
    "status": {
        **dict.fromkeys(("phase", "reason", "message", "allocatable", "hard", "used", "startTime")),
        **dict.fromkeys(("active", "succeeded", "failed", "failedIndexes", "completionTime")),
        "conditions": dict.fromkeys(("type", "status", "reason", "message", "lastTransitionTime")),
        "containerStatuses": dict.fromkeys(("name", "state")),
    },
    "involvedObject": dict.fromkeys(("kind", "name")),
    **dict.fromkeys(("reason", "message", "lastTimestamp", "eventTime", "series")),
}


def _kept(found, fields):
    """Keep these fields, at any depth that they name."""
    if isinstance(found, list):
        return [_kept(each, fields) for each in found]
    if fields is None or not isinstance(found, dict):
        return found
    return {name: _kept(found[name], below) for name, below in fields.items() if name in found}


if __name__ == "__main__":
    sys.exit(record())
