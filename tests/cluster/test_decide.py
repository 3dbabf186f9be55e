from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.support import cluster

from qatune.cluster import failures, jobs
from qatune.cluster.coordinator import Action, decide, failure_event, release_patch
from qatune.cluster.jobs import Condition

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
DONE = Condition("CompletionsReached", "Reached expected number of succeeded pods", NOW)


def a_job(stage="train", **fields):
    """Read a Job as the API shows it before anything has happened to it."""
    made = cluster.stage_job(stage)
    made["metadata"] |= {
        "namespace": "ml",
        "uid": "5a3c",
        "resourceVersion": "17",
        "creationTimestamp": "2026-03-01T12:00:00Z",
    }
    return replace(jobs.read(made), **fields)


def failed(reason, message="", **fields):
    return a_job(failure=Condition(reason, message, NOW), **fields)


@pytest.mark.parametrize(
    ("job", "manifest", "action"),
    [
        (a_job(), False, Action.RELEASE),
        (a_job(released_at="2026-03-01T12:00:00Z"), False, Action.WAIT),  # suspended by hand
        (a_job(released_at="2026-03-01T12:00:00Z", suspended_by="kubectl"), False, Action.WAIT),
        (a_job(released_at="2026-03-01T12:00:00Z", suspended_by="helm"), False, Action.RELEASE),
        (a_job(suspended=False), False, Action.WAIT),  # at work, or released by hand
        (a_job(suspended=False, complete=DONE), True, Action.NEXT),
        (a_job(suspended=False, complete=DONE), False, Action.FAIL),
        (failed("BackoffLimitExceeded", suspended=False), False, Action.FAIL),
        (failed("BackoffLimitExceeded", suspended=False), True, Action.FAIL),
    ],
)
def test_each_state_of_a_job_has_one_action(job, manifest, action):
    assert decide(job, manifest) is action


def test_a_release_unsuspends_the_version_that_was_read_and_says_when():
    assert release_patch(a_job(), None, NOW) == {
        "metadata": {
            "resourceVersion": "17",
            "annotations": {"qatune/released-at": "2026-03-01T12:30:00+00:00"},
        },
        "spec": {"suspend": False},
    }


def test_a_release_to_kueue_changes_the_label_and_leaves_suspend_alone():
    patch = release_patch(a_job(), "gpus", NOW)
    assert patch["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "gpus"}
    assert "qatune/released-at" in patch["metadata"]["annotations"]
    assert "spec" not in patch


# Conditions as Kubernetes 1.34 writes them.
@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (
            failed(
                "PodFailurePolicy",
                "Container train for pod ml/demo-train-hstdd failed with exit code 65 "
                "matching FailJob rule at index 1",
            ),
            "train failed with exit code 65 (bad data)",
        ),
        (
            failed("BackoffLimitExceeded", "Job has reached the specified backoff limit", failed=4),
            "train failed 4 times and is not tried again",
        ),
        (
            failed("DeadlineExceeded", "Job was active longer than specified deadline"),
            "train took longer than stages.train.activeDeadlineSeconds allows",
        ),
        (
            failed(
                "FailedIndexes",
                "Job has failed indexes",
                stage="generate",
                completions=1000,
                failed_indexes="3,7-9",
            ),
            "generate failed in 4 of 1,000 shards: 3, 7-9",
        ),
        (failed("NewReason", "Something new"), "train failed: NewReason: Something new"),
    ],
)
def test_a_failed_job_is_told_in_a_sentence(job, sentence):
    assert failures.what_failed(job) == sentence


def test_of_many_failed_shards_only_the_first_are_named():
    text = ",".join(str(2 * number) for number in range(500))
    job = failed("FailedIndexes", stage="generate", completions=1000, failed_indexes=text)
    told = failures.what_failed(job)
    assert told.startswith("generate failed in 500 of 1,000 shards: 0, 2, 4, ")
    assert told.endswith("and 492 more ranges")


def test_the_way_out_names_release_and_next_attempt():
    out = failures.way_out(failed("DeadlineExceeded", attempt=3))
    assert "helm upgrade demo CHART --namespace ml --reset-then-reuse-values" in out
    assert out.endswith("--set run.attempt=4")
    assert "qatune explain finished" in out


def test_the_event_is_the_same_each_time_and_fits_into_the_api():
    job = failed("DeadlineExceeded")
    event = failure_event("demo-coordinator", job, "x" * 3000)
    assert event == failure_event("demo-coordinator", job, "x" * 3000)
    assert len(event["message"]) == 1024
    assert event["involvedObject"]["uid"] == "5a3c"
    assert event["lastTimestamp"] == "2026-03-01T12:30:00Z"


@pytest.mark.parametrize(
    ("text", "numbers"), [("", []), ("4", [4]), ("0,3-5", [0, 3, 4, 5]), ("1-2,9", [1, 2, 9])]
)
def test_indexes_are_read_as_kubernetes_writes_them(text, numbers):
    assert failures.indexes(text) == numbers
