"""Which pod is behind a failure, and what is said of it."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.made import COMPLETE, NOW, RUNNING, a_job, a_pod, a_run

from qatune.cluster import diagnosis, failures, status
from qatune.cluster.facts import Exit
from qatune.cluster.jobs import Condition

LATER = NOW + timedelta(seconds=2)
LOST_PEER = "70: another of the 2 processes that train together has ended or cannot be reached"
UPGRADE = "helm upgrade demo CHART --namespace ml --reset-then-reuse-values --set run.attempt=2"


def a_failed(stage, reason, message="", **fields):
    return a_job(stage, suspended=False, failure=Condition(reason, message, LATER), **fields)


def dead(stage, index, code, message="", *, at=NOW, reason="Error", **fields):
    end = Exit(code, reason, message, at)
    return a_pod(stage, f"{index}-x{code}", index=index, phase="Failed", exit=end, **fields)


TOGETHER = {"indexed": True, "completions": 2}
SHARDS = {"indexed": True, "completions": 8, "failed_indexes": "1"}
SHARD_FAILED = a_failed("generate", "FailedIndexes", **SHARDS)
ONLY_SHARD = replace(SHARD_FAILED, completions=1, failed_indexes="0")


def with_rows(job, rows):
    """Return the stage after it, which carries what the coordinator has said."""
    said = f"{failures.what_failed(job)} ({rows}); {failures.way_out(job)}"
    return a_job("evaluate", blocked=said)


SENTENCES = {
    "of two that train together, the one whose code failed the Job": (
        a_run(
            a_failed(
                "train",
                "PodFailurePolicy",
                "Container train for pod ml/demo-train-1-x77 failed with exit code 77 matching "
                "FailJob rule at index 1",
                **TOGETHER,
            ),
            pods=[dead("train", 1, 77, "77: the bucket refuses"), dead("train", 0, 70, LOST_PEER)],
        ),
        f"train failed with 77: the bucket refuses; mend it, then {UPGRADE}",
    ),
    "of two that train together, not the one that lost the other": (
        a_run(
            a_failed("train", "BackoffLimitExceeded", **TOGETHER),
            pods=[
                dead("train", 1, 137, reason="OOMKilled", memory_limit="32Gi"),
                dead("train", 0, 70, LOST_PEER, at=LATER),
            ],
        ),
        (
            "train was killed for memory at its limit of 32Gi; raise "
            f"stages.train.resources.limits.memory, then {UPGRADE}"
        ),
    ),
    "one that was tried several times, by its last end": (
        a_run(
            a_failed("train", "BackoffLimitExceeded"),
            pods=[dead("train", None, 137), dead("train", None, 70, "70: a bug", at=LATER)],
        ),
        f"train failed with 70: a bug; mend it, then {UPGRADE}",
    ),
    "a deadline, not the failure before it": (
        a_run(
            a_failed("train", "DeadlineExceeded"),
            pods=[dead("train", None, 137, reason="OOMKilled", memory_limit="32Gi")],
        ),
        (
            "train took longer than stages.train.activeDeadlineSeconds allows; mend it, then "
            f"{UPGRADE}"
        ),
    ),
    "a shard that failed for good, not one that was tried again": (
        a_run(
            SHARD_FAILED,
            with_rows(SHARD_FAILED, "shard 1: 9 rows"),
            pods=[
                dead("generate", 1, 66, "66: torn"),
                dead("generate", 5, 137, at=LATER, reason="OOMKilled", memory_limit="8Gi"),
            ],
        ),
        (
            "generate failed in 1 of 8 shards: 1 (shard 1: 9 rows); the last failed with 66: torn; "
            f"mend it, then {UPGRADE}"
        ),
    ),
    "a shard that ran out of memory, with the rows that it lacks": (
        a_run(
            SHARD_FAILED,
            with_rows(SHARD_FAILED, "shard 1: 9 rows"),
            pods=[dead("generate", 1, 137, reason="OOMKilled", memory_limit="8Gi")],
        ),
        (
            "generate failed in 1 of 8 shards: 1 (shard 1: 9 rows); the last was killed for memory "
            f"at its limit of 8Gi; raise stages.generate.resources.limits.memory, then {UPGRADE}"
        ),
    ),
    "the only shard, with its rows": (
        a_run(
            ONLY_SHARD,
            with_rows(ONLY_SHARD, "shard 0: 9 rows"),
            pods=[dead("generate", 0, 66, "66: torn")],
        ),
        (
            "generate failed (shard 0: 9 rows); its pod failed with 66: torn; mend it, then "
            f"{UPGRADE}"
        ),
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_failure_is_told_by_what_began_it(name):
    known, sentence = SENTENCES[name]
    assert diagnosis.explain(known) == sentence
    assert sentence in [line.reason for line in status.from_cluster(known, None).stages]


def test_a_pod_whose_node_does_not_say_that_it_has_ended():
    pod = a_pod("train", node="gpu-1", gone_by=NOW - timedelta(seconds=59))
    soon = diagnosis.explain(a_run(COMPLETE, RUNNING, pods=[pod]))
    assert soon.startswith("train is interrupted: pod demo-train-x7x2k is being deleted")
    late = replace(pod, gone_by=NOW - timedelta(seconds=61))
    said = diagnosis.explain(a_run(COMPLETE, RUNNING, pods=[late]))
    assert re.fullmatch(
        r"train waits for the end of pod demo-train-x7x2k, which should have been gone at .+: node "
        r"gpu-1 does not confirm it; if that node is lost, kubectl delete node gpu-1, and the pod "
        r"is replaced",
        said,
    )


def test_shards_that_start_do_not_hide_those_that_run():
    job = a_job("generate", suspended=False, indexed=True, completions=8, succeeded=3)
    pods = [a_pod("generate", "0-a", running_since=NOW, node="gpu-1")]
    pods += [a_pod("generate", "1-b", phase="Pending", node="gpu-9")]
    said = diagnosis.explain(a_run(job, pods=pods))
    assert re.fullmatch(
        r"generate is running in 1 pod on gpu-1 since .+, 3 of 8 shards are done, 1 more to start",
        said,
    )
