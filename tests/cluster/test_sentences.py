"""What `explain` says of Jobs and pods that are made by hand.

These are what a test cannot wait for, or must not do to nodes.
"""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.cluster import STAGES
from tests.support.made import (
    AT_WORK,
    COMPLETE,
    COORDINATOR,
    DONE,
    LOST,
    NOW,
    RELEASED,
    RUNNING,
    TOLD,
    a_job,
    a_pod,
    a_run,
    an_event,
)

from qatune.cluster import diagnosis, failures
from qatune.cluster.facts import Exit, Quota
from qatune.cluster.jobs import Condition

SHARDS_FAILED = replace(
    LOST,
    stage="generate",
    name="demo-generate",
    indexed=True,
    completions=8,
    failed_indexes="1,3",
    failure=Condition("FailedIndexes", "Job has failed indexes", NOW),
)
TORN = [a_pod("generate", "1-a", phase="Failed", exit=Exit(66, "Error", "66: torn", NOW))]
ROWS_MISSING = "generate failed in 2 of 8 shards: 1, 3 (shards 1, 3: 9 rows ...); " + (
    failures.way_out(SHARDS_FAILED)
)

UPGRADE = "helm upgrade demo CHART --namespace ml --reset-then-reuse-values"
OVER = Condition("PodFailurePolicy", "", NOW)
REFUSED = (
    'Error creating: pods "demo-train-x" is forbidden: exceeded quota: team, requested: '
    "requests.memory=2Gi, used: requests.memory=7Gi, limited: requests.memory=8Gi"
)

SENTENCES = {
    "all complete": (
        a_run(*(a_job(stage, complete=DONE, suspended=False) for stage in STAGES)),
        (
            r"finished is complete since 2026-03-01 .+; the report lies at "
            r"s3://bucket/team/runs/finished/evaluate/report.html"
        ),
    ),
    "about to be released": (
        a_run(COMPLETE, a_job("train"), pods=[AT_WORK], coordinator=COORDINATOR),
        r"train is about to be released by the coordinator",
    ),
    "late to be released": (
        a_run(
            replace(COMPLETE, complete=replace(DONE, at=NOW - timedelta(minutes=1))),
            a_job("train"),
            pods=[AT_WORK],
            coordinator=COORDINATOR,
        ),
        (
            r"train is not released, though preprocess is complete: the coordinator runs, and "
            r"says why: kubectl logs job/demo-coordinator --namespace ml"
        ),
    ),
    "no coordinator": (
        a_run(a_job("preprocess")),
        (
            r"preprocess is not released, though nothing is before it: the coordinator's Job is "
            r"gone; bring it back with helm upgrade demo CHART --namespace ml "
            r"--reset-then-reuse-values"
        ),
    ),
    "the coordinator cannot start": (
        a_run(
            COMPLETE,
            a_job("train"),
            pods=[
                a_pod(
                    "coordinator",
                    phase="Pending",
                    waiting=("CreateContainerConfigError", 'secret "keys" not found'),
                )
            ],
            coordinator=COORDINATOR,
        ),
        r'train waits for the coordinator: coordinator cannot start: secret "keys" not found; .+',
    ),
    "the coordinator failed": (
        a_run(
            COMPLETE,
            a_job("train"),
            pods=[
                a_pod("coordinator", phase="Failed", exit=Exit(77, "Error", "77: no rights", NOW))
            ],
            coordinator=replace(COORDINATOR, failure=Condition("PodFailurePolicy", "", NOW)),
        ),
        r"train is not released: the coordinator failed with 77: no rights",
    ),
    "a manifest is missing": (
        a_run(COMPLETE, a_job("train", blocked="preprocess is complete, but ...; mend it")),
        r"preprocess is complete, but ...; mend it",
    ),
    "parked in Kueue": (
        a_run(COMPLETE, a_job("train", queue="gpus", **RELEASED)),
        r"train is parked behind Kueue queue gpus since 2026-03-01T12:10:00\+00:00: .+",
    ),
    "suspended by hand": (
        a_run(COMPLETE, a_job("train", **RELEASED)),
        (
            r"train was suspended by hand after its release; resume it with kubectl patch job "
            r'demo-train --namespace ml --patch \'{"spec":{"suspend":false}}\''
        ),
    ),
    "running": (
        a_run(COMPLETE, RUNNING, pods=[a_pod("train", node="gpu-1", running_since=NOW)]),
        r"train is running on gpu-1 since 2026-03-01 \d\d:30:00",
    ),
    "pulling": (
        a_run(
            RUNNING,
            pods=[a_pod("train", phase="Pending", node="gpu-1", waiting=("ContainerCreating", ""))],
            events=[an_event("demo-train-x7x2k", "Pulling")],
        ),
        r"train is starting: gpu-1 pulls image qatune:1",
    ),
    "killed for memory before": (
        a_run(
            RUNNING,
            pods=[
                a_pod("train", "first", exit=Exit(137, "OOMKilled", "", NOW), memory_limit="8Gi"),
                a_pod("train", node="gpu-1", running_since=NOW),
            ],
        ),
        (
            r"train is running on gpu-1 since .+; before: train was killed for memory at its limit "
            r"of 8Gi; raise stages.train.resources.limits.memory"
        ),
    ),
    "interrupted before": (
        a_run(
            RUNNING,
            pods=[
                a_pod("train", "first", exit=Exit(75, "Error", "75: SIGTERM; saved", NOW)),
                a_pod("train", node="gpu-1", running_since=NOW),
            ],
        ),
        (
            r"train is running on gpu-1 since .+; before: pod demo-train-first ended with "
            r"75: SIGTERM; saved"
        ),
    ),
    "drained": (
        a_run(
            RUNNING,
            pods=[a_pod("train", node="gpu-1", deleting=True, disrupted="Eviction API: evicting")],
        ),
        (
            r"train is interrupted: pod demo-train-x7x2k was ended \(Eviction API: evicting\) and "
            r"is replaced, progress is saved"
        ),
    ),
    "preempted, its pod gone": (
        a_run(
            RUNNING,
            events=[an_event("demo-train-first", "Preempted", "Preempted by pod x on node gpu-1")],
        ),
        (
            r"train is about to start again: pod demo-train-first made room for a pod of higher "
            r"priority at .+ and is replaced, progress is saved"
        ),
    ),
    "some shards wait": (
        a_run(
            a_job("generate", suspended=False, indexed=True, completions=8, succeeded=2),
            pods=[
                a_pod("generate", "0-a", running_since=NOW, node="gpu-1"),
                a_pod("generate", "1-b", phase="Pending", unschedulable="0/1 nodes are available."),
                a_pod("generate", "2-c", phase="Pending", unschedulable="0/1 nodes are available."),
            ],
        ),
        (
            r"generate runs in 1 pod, and 2 more wait for a node; the scheduler says: 0/1 nodes "
            r"are available"
        ),
    ),
    "shards run": (
        a_run(
            a_job(
                "generate",
                suspended=False,
                indexed=True,
                completions=8,
                succeeded=2,
                failed_indexes="3",
            ),
            pods=[
                a_pod("generate", "0-a", running_since=NOW, node="gpu-1"),
                a_pod("generate", "1-b", running_since=NOW, node="gpu-2"),
            ],
        ),
        (
            r"generate is running in 2 pods on 2 nodes since .+, 2 of 8 shards are done, failed "
            r"for good: 3"
        ),
    ),
    "failed shards": (
        a_run(SHARDS_FAILED, pods=TORN),
        (
            r"generate failed in 2 of 8 shards: 1, 3; the last with 66: torn; mend it, then helm "
            r"upgrade demo CHART --namespace \w+ --reset-then-reuse-values --set run.attempt=2"
        ),
    ),
    "failed shards, and the rows that the coordinator found missing": (
        a_run(SHARDS_FAILED, a_job("evaluate", blocked=ROWS_MISSING), pods=TORN),
        (
            r"generate failed in 2 of 8 shards: 1, 3 \(shards 1, 3: 9 rows ...\); the last with "
            r"66: torn; mend it, then .+"
        ),
    ),
    "the same, where evaluate is disabled": (
        a_run(
            SHARDS_FAILED,
            pods=TORN,
            events=[an_event("demo-generate", "StageFailed", ROWS_MISSING, kind="Job")],
        ),
        r"generate failed in 2 of 8 shards: 1, 3 \(shards 1, 3: 9 rows ...\); the last .+",
    ),
    "failed, its pods gone": (
        a_run(LOST),
        (
            r"preprocess failed 3 times and is not tried again; mend it, then helm upgrade demo "
            r"CHART --namespace \w+ --reset-then-reuse-values --set run.attempt=2"
        ),
    ),
    "its Job is gone": (
        a_run(COMPLETE, a_job("generate"), coordinator=TOLD, missing=["train"]),
        f"train has no Job: it was deleted, or could not be made; bring it back with {UPGRADE}",
    ),
    "its Job is gone, and the coordinator has failed": (
        a_run(
            COMPLETE,
            a_job("generate"),
            coordinator=replace(TOLD, failure=OVER),
            missing=["train"],
        ),
        f"train has no Job: .+; bring it back with {UPGRADE} --set run.attempt=2",
    ),
    "the last Job is gone": (
        a_run(
            *(a_job(stage, complete=DONE, suspended=False) for stage in STAGES[:3]),
            coordinator=TOLD,
            missing=["evaluate"],
        ),
        f"evaluate has no Job: .+; bring it back with {UPGRADE}",
    ),
    "an earlier Job is gone, as it was done": (
        a_run(RUNNING, a_job("generate"), coordinator=TOLD, missing=["preprocess"]),
        r"train is released; its pod is about to be created",
    ),
    "at work, and nobody will release the next": (
        a_run(RUNNING, a_job("generate"), pods=[a_pod("train", node="a", running_since=NOW)]),
        (
            r"train is running on a since .+; the coordinator's Job is gone, bring it back with "
            rf"{UPGRADE}"
        ),
    ),
    "the last stage at work needs no coordinator": (
        a_run(RUNNING, pods=[a_pod("train", node="a", running_since=NOW)]),
        r"train is running on a since [\d: -]+",
    ),
    "the coordinator is killed for memory again and again": (
        a_run(
            COMPLETE,
            a_job("train"),
            pods=[a_pod("coordinator", exit=Exit(137, "OOMKilled", "", NOW), memory_limit="64Mi")],
            coordinator=COORDINATOR,
        ),
        (
            r"train waits for the coordinator: coordinator was killed for memory at its limit of "
            r"64Mi; raise stages.coordinator.resources.limits.memory"
        ),
    ),
    "the quota has room again": (
        a_run(
            RUNNING,
            events=[an_event("demo-train", "FailedCreate", REFUSED, kind="Job")],
            quotas=[Quota("team", {"requests.memory": "6144Mi"})],
        ),
        (
            r"train gets no pod yet: quota team of namespace ml had no room; it has now, and the "
            r"Job tries again by itself"
        ),
    ),
    "the quota has no room still": (
        a_run(
            RUNNING,
            events=[an_event("demo-train", "FailedCreate", REFUSED, kind="Job")],
            quotas=[Quota("team", {"requests.memory": "6145Mi"})],
        ),
        r"train gets no pod: quota team .+ asks for 2Gi requests.memory, and 6145Mi of 8Gi is used",
    ),
    "a secret without the key": (
        a_run(
            RUNNING,
            pods=[
                a_pod(
                    "train",
                    phase="Pending",
                    waiting=(
                        "CreateContainerConfigError",
                        "couldn't find key AWS_ACCESS_KEY_ID in Secret ml/keys",
                    ),
                )
            ],
        ),
        (
            r"train cannot start: couldn't find key AWS_ACCESS_KEY_ID in Secret ml/keys; add that "
            r"key in namespace ml and the stage starts by itself"
        ),
    ),
    "deleted now, after another was killed": (
        a_run(
            RUNNING,
            pods=[
                a_pod("train", "first", exit=Exit(137, "Error", "", NOW)),
                a_pod("train", "second", deleting=True),
            ],
        ),
        (
            r"train is interrupted: pod demo-train-second is being deleted and is replaced, "
            r"progress is saved; before: pod demo-train-first ended with exit code 137 .+"
        ),
    ),
    "what a person would do at a terminal is left out": (
        a_run(
            RUNNING,
            pods=[
                a_pod(
                    "train",
                    exit=Exit(69, "Error", "69: s3://b: away; run the same command again", NOW),
                )
            ],
        ),
        r"train is about to start again: pod demo-train-x7x2k ended with 69: s3://b: away",
    ),
    "just released": (
        a_run(RUNNING),
        r"train is released; its pod is about to be created",
    ),
    "a node is being added": (
        a_run(
            RUNNING,
            pods=[a_pod("train", phase="Pending", unschedulable="0/3 nodes are available: 3 x.")],
            events=[an_event("demo-train-x7x2k", "TriggeredScaleUp", "pod triggered scale-up")],
        ),
        (
            r"train waits for a node; the scheduler says: 0/3 nodes are available: 3 x; the "
            r"autoscaler is adding a node"
        ),
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_run_is_told_in_one_sentence(name):
    known, pattern = SENTENCES[name]
    said = diagnosis.explain(known)
    assert re.fullmatch(pattern, said), said


def test_a_pod_refused_before_another_was_made_is_no_news():
    refused = an_event("demo-train", "FailedCreate", "Error creating: quota", kind="Job")
    made = replace(refused, reason="SuccessfulCreate", at=NOW + timedelta(seconds=5))
    pods = [a_pod("train", node="gpu-1", running_since=NOW)]
    said = diagnosis.explain(a_run(RUNNING, pods=pods, events=[refused, made]))
    assert said.startswith("train is running")
