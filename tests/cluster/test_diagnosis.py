"""What `explain` says, by what a real cluster has answered (see tests.support.broken)."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from tests.support import broken, cluster

from qatune.cluster import diagnosis, facts, failures, jobs, status
from qatune.cluster.facts import Event, Exit, Facts, Pod
from qatune.cluster.jobs import Condition
from qatune.cluster.scheduling import Needs
from qatune.errors import MissingInputError, NotAllowedError

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
NEEDS = Needs({"pods": Decimal(1)})
STAGES = ("preprocess", "train", "generate", "evaluate")


class Recorded:
    """A cluster that answers as one did; `closed` are the kinds that may not be read."""

    def __init__(self, namespace, closed=()):
        self.namespace = namespace
        self._found = json.loads(broken.RECORDED.read_text())
        self._closed = closed

    def _list(self, kind, selector=""):
        if kind in self._closed:
            raise NotAllowedError(f"{kind} may not be listed")
        label, _, value = selector.partition("=")
        found = self._found[kind if kind == "nodes" else f"{self.namespace}/{kind}"]
        if not value:
            return found
        return [each for each in found if each["metadata"]["labels"].get(label) == value]

    def jobs(self, selector):
        return self._list("jobs", selector)

    def pods(self, selector):
        return self._list("pods", selector)

    def events(self):
        return self._list("events")

    def quotas(self):
        return self._list("resourcequotas")

    def nodes(self):
        return self._list("nodes")

    def pods_on_nodes(self):
        return self._list("pods")


@pytest.mark.parametrize("run", broken.BROKEN)
def test_what_cannot_run_is_explained(run):
    said = diagnosis.explain(facts.gather(Recorded("broken"), run))
    assert re.fullmatch(broken.sentence(broken.BROKEN, run, "broken"), said), said
    assert "\n" not in said


@pytest.mark.parametrize("run", broken.OVER_QUOTA)
def test_a_quota_that_allows_no_more_is_named(run):
    said = diagnosis.explain(facts.gather(Recorded("quota"), run))
    assert re.fullmatch(broken.sentence(broken.OVER_QUOTA, run, "quota"), said), said


def test_the_quota_is_told_as_it_is_now_else_as_it_was():
    now = facts.gather(Recorded("quota"), "quota")
    quota = replace(now.quotas[0], used={"requests.nvidia.com/gpu": "7"})
    assert "7 of 1 is used" in diagnosis.explain(replace(now, quotas=[quota]))
    closed = facts.gather(Recorded("quota", closed=("resourcequotas",)), "quota")
    assert "0 of 1 is used" in diagnosis.explain(closed)


def test_where_nodes_are_closed_the_scheduler_speaks():
    said = diagnosis.explain(facts.gather(Recorded("broken", closed=("nodes",)), "gpus"))
    assert re.fullmatch(
        r"train waits for 900 nvidia.com/gpu; the scheduler says: 0/\d+ nodes are available: .+",
        said,
    )
    assert "preemption" not in said


@pytest.mark.parametrize("run", ["data", "memory", "gpus", "secret"])
def test_where_events_are_closed_jobs_and_pods_say_enough(run):
    closed = ("events", "resourcequotas")
    said = diagnosis.explain(facts.gather(Recorded("broken", closed), run))
    assert re.fullmatch(broken.sentence(broken.BROKEN, run, "broken"), said), said


def test_a_run_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(MissingInputError, match=r"no run 'nope' in namespace quota; runs there: "):
        facts.gather(Recorded("quota"), "nope")


@pytest.mark.parametrize(
    ("run", "state"),
    [
        ("gpus", "pending"),
        ("secret", "pending"),
        ("security", "starting"),
        ("data", "failed"),
        ("disk", "failed"),
    ],
)
def test_the_state_of_a_stage(run, state):
    known = facts.gather(Recorded("broken"), run)
    line = status.from_cluster(known, None).stages[0]
    assert line.state == state
    if state == "failed":
        assert line.reason == diagnosis.explain(known)


# From here on Jobs and pods are made by hand: what a test cannot wait for, or must not do to nodes.


def a_job(stage, **fields):
    made = cluster.stage_job(stage)
    made["metadata"] |= {
        "namespace": "ml",
        "uid": stage,
        "resourceVersion": "1",
        "creationTimestamp": "2026-03-01T12:00:00Z",
    }
    return replace(jobs.read(made), store="s3://bucket/team", **fields)


def a_pod(stage, name="x7x2k", **fields):
    nothing = dict.fromkeys(
        (
            *("node", "evicted", "disrupted", "unschedulable", "waiting"),
            *("running_since", "exit", "memory_limit"),
        )
    )
    given = {
        "name": f"demo-{stage}-{name}",
        "job": f"demo-{stage}",
        "created": NOW,
        "phase": "Running",
        "deleting": False,
        "image": "qatune:1",
        "needs": NEEDS,
    }
    return Pod(**nothing | given | fields)


def a_run(*stages, pods=(), events=(), nodes=(), coordinator=None):
    return Facts("finished", "ml", stages, coordinator, pods, events, nodes, (), NOW)


def an_event(name, reason, message="", kind="Pod"):
    return Event(kind, name, reason, message, NOW)


DONE = Condition("CompletionsReached", "", NOW)
RELEASED = {"released_at": "2026-03-01T12:10:00+00:00"}
COORDINATOR = a_job("coordinator", suspended=False)
AT_WORK = a_pod("coordinator", running_since=NOW)
COMPLETE = a_job("preprocess", complete=DONE, suspended=False, **RELEASED)
RUNNING = a_job("train", suspended=False, **RELEASED)
LOST = a_job(
    "preprocess",
    suspended=False,
    failure=Condition("BackoffLimitExceeded", "Job has reached the specified backoff limit", NOW),
    failed=3,
)

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
            r"gone; bring it back with helm upgrade demo CHART --reset-then-reuse-values"
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


def test_of_two_attempts_the_newer_one_is_told():
    class Twice(Recorded):
        def jobs(self, selector):
            (old,) = super().jobs(selector)
            new = json.loads(json.dumps(old))
            new["metadata"] |= {"name": "new", "creationTimestamp": "2099-01-01T00:00:00Z"}
            new["metadata"]["labels"]["qatune/attempt"] = "2"
            return [old, new]

    (job,) = facts.run_jobs(Twice("broken"), "data")
    assert (job.name, job.attempt) == ("new", 2)


DOCUMENTED = ROOT / "docs" / "troubleshooting.md"
NOT_DOCUMENTED = {"image-name", "command"}  # as the image that does not exist, and as a crash


@pytest.mark.parametrize("run", sorted((broken.BROKEN | broken.OVER_QUOTA).keys() - NOT_DOCUMENTED))
def test_the_documentation_shows_what_is_said(run):
    cases = broken.BROKEN | broken.OVER_QUOTA
    pattern = broken.sentence(cases, run, "qatune").replace(f"upgrade {run}", "upgrade mine")
    pattern = pattern.replace("crash-train-\\w+", r"mine-train-[\w-]+")
    shown = [" ".join(part.split()) for part in DOCUMENTED.read_text().split("\n\n")]
    assert any(re.fullmatch(pattern, each) for each in shown), pattern
