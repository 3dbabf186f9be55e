"""Jobs, pods and events that are made by hand, as the cluster package reads them."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from qatune.cluster import jobs
from qatune.cluster.facts import Event, Facts, Pod
from qatune.cluster.jobs import Condition
from qatune.cluster.scheduling import Needs
from tests.support import cluster
from tests.support.cluster import STAGES

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
NEEDS = Needs({"pods": Decimal(1)})


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
            *("index", "gone_by", "node", "evicted", "disrupted", "unschedulable", "waiting"),
            *("running_since", "exit", "memory_limit"),
        )
    )
    given = {
        "name": f"demo-{stage}-{name}",
        "job": f"demo-{stage}",
        "created": NOW,
        "phase": "Running",
        "image": "qatune:1",
        "needs": NEEDS,
    }
    return Pod(**nothing | given | fields)


def a_run(*stages, pods=(), events=(), nodes=(), quotas=(), coordinator=None, **more):
    return Facts("finished", "ml", stages, coordinator, pods, events, nodes, quotas, NOW, **more)


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
TOLD = replace(COORDINATOR, told=[(stage, f"demo-{stage}") for stage in STAGES])
