"""What `explain` says of a stage and its pods, made by hand.

These are what a test cannot wait for, or must not do to nodes.
"""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.made import (
    COMPLETE,
    LOST,
    NOW,
    RUNNING,
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
TORN = [a_pod("generate", "1-a", index=1, phase="Failed", exit=Exit(66, "Error", "66: torn", NOW))]
ROWS_MISSING = "generate failed in 2 of 8 shards: 1, 3 (shards 1, 3: 9 rows ...); " + (
    failures.way_out(SHARDS_FAILED)
)

REFUSED = (
    'Error creating: pods "demo-train-x" is forbidden: exceeded quota: team, requested: '
    "requests.memory=2Gi, used: requests.memory=7Gi, limited: requests.memory=8Gi"
)

SENTENCES = {
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
            pods=[a_pod("train", node="gpu-1", gone_by=NOW, disrupted="Eviction API: evicting")],
        ),
        (
            r"train is interrupted: pod demo-train-x7x2k was ended \(Eviction API: evicting\) and "
            r"is replaced; the new one goes on from what was saved"
        ),
    ),
    "preempted, its pod gone": (
        a_run(
            RUNNING,
            events=[an_event("demo-train-first", "Preempted", "Preempted by pod x on node gpu-1")],
        ),
        (
            r"train is about to start again: pod demo-train-first made room for a pod of higher "
            r"priority at .+ and is replaced; the new one goes on from what was saved"
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
            r"generate failed in 2 of 8 shards: 1, 3; the last failed with 66: torn; mend it, then "
            r"helm upgrade demo CHART --namespace \w+ --reset-then-reuse-values --set run.attempt=2"
        ),
    ),
    "failed shards, and the rows that the coordinator found missing": (
        a_run(SHARDS_FAILED, a_job("evaluate", blocked=ROWS_MISSING), pods=TORN),
        (
            r"generate failed in 2 of 8 shards: 1, 3 \(shards 1, 3: 9 rows ...\); the last failed "
            r"with 66: torn; mend it, then .+"
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
    "the quota has room again": (
        a_run(
            RUNNING,
            events=[an_event("demo-train", "FailedCreate", REFUSED, kind="Job")],
            quotas=[Quota("team", {"requests.memory": "6144Mi"}, {})],
        ),
        (
            r"train gets no pod yet: quota team of namespace ml had no room; it has now, and the "
            r"Job tries again by itself"
        ),
    ),
    "the quota was raised": (
        a_run(
            RUNNING,
            events=[an_event("demo-train", "FailedCreate", REFUSED, kind="Job")],
            quotas=[Quota("team", {"requests.memory": "7Gi"}, {"requests.memory": "9Gi"})],
        ),
        r"train gets no pod yet: quota team of namespace ml had no room; it has now, .+",
    ),
    "the quota has room for some": (
        a_run(
            RUNNING,
            pods=[
                a_pod("train", "one", running_since=NOW),
                a_pod("train", "two", running_since=NOW),
            ],
            events=[an_event("demo-train", "FailedCreate", REFUSED, kind="Job")],
        ),
        r"train runs in 2 pods and gets no more: quota team of namespace ml allows no more: .+",
    ),
    "the quota has no room still": (
        a_run(
            RUNNING,
            events=[an_event("demo-train", "FailedCreate", REFUSED, kind="Job")],
            quotas=[Quota("team", {"requests.memory": "6145Mi"}, {})],
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
                a_pod("train", "second", gone_by=NOW),
            ],
        ),
        (
            r"train is interrupted: pod demo-train-second is being deleted and is replaced; the "
            r"new one goes on from what was saved; before: pod demo-train-first ended with "
            r"exit code 137 .+"
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
