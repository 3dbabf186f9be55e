"""What `explain` says of the order: what is released, complete, missing or unattended.

The Jobs are made by hand.
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
)

from qatune.cluster import diagnosis
from qatune.cluster.facts import Exit
from qatune.cluster.jobs import Condition

UPGRADE = "helm upgrade demo CHART --namespace ml --reset-then-reuse-values"
FINISHED = [a_job(stage, complete=DONE, suspended=False) for stage in STAGES]
EVALUATE = a_job("evaluate", suspended=False, **RELEASED)
SANDBOX = a_job("execute", suspended=False, **RELEASED)
OVER = Condition("PodFailurePolicy", "", NOW)
SENTENCES = {
    "all complete": (
        a_run(*FINISHED),
        (
            r"finished is complete since 2026-03-01 .+; the report lies at "
            r"s3://bucket/team/runs/finished/evaluate/report.html"
        ),
    ),
    "evaluate waits for its sandbox": (
        a_run(
            *FINISHED[:3],
            EVALUATE,
            pods=[
                AT_WORK,
                a_pod("evaluate", running_since=NOW, node="cpu-1"),
                a_pod("execute", phase="Pending", unschedulable="0/3 nodes are available: 3 full."),
            ],
            coordinator=COORDINATOR,
            sandbox=SANDBOX,
        ),
        (
            r"evaluate is running on cpu-1 since .+; its sandbox: execute waits for .+; the "
            r"scheduler says: 0/3 nodes are available: 3 full"
        ),
    ),
    "evaluate has its sandbox": (
        a_run(
            *FINISHED[:3],
            EVALUATE,
            pods=[
                AT_WORK,
                a_pod("evaluate", running_since=NOW, node="cpu-1"),
                a_pod("execute", running_since=NOW, node="cpu-2"),
            ],
            coordinator=COORDINATOR,
            sandbox=SANDBOX,
        ),
        r"evaluate is running on cpu-1 since [^;]+",
    ),
    "the sandbox has failed": (
        a_run(
            *FINISHED[:3],
            EVALUATE,
            pods=[AT_WORK, a_pod("evaluate", running_since=NOW, node="cpu-1")],
            coordinator=COORDINATOR,
            sandbox=replace(SANDBOX, failure=LOST.failure, failed=21),
        ),
        r"evaluate is running on cpu-1 since .+; its sandbox is gone: execute failed .+",
    ),
    "the sandbox waits in a queue to end": (
        a_run(
            *FINISHED,
            pods=[AT_WORK],
            coordinator=COORDINATOR,
            sandbox=replace(SANDBOX, suspended=True, queue="team"),
        ),
        (
            r"evaluate is complete; waiting for its sandbox's Job: execute is parked behind Kueue "
            r"queue team since .+"
        ),
    ),
    "the sandbox was suspended before its end": (
        a_run(
            *FINISHED,
            pods=[AT_WORK],
            coordinator=COORDINATOR,
            sandbox=replace(SANDBOX, suspended=True),
        ),
        (
            r"evaluate is complete; waiting for its sandbox's Job: execute was suspended by hand "
            r"after its release; resume it with .+"
        ),
    ),
    "nobody tells the sandbox to end": (
        a_run(
            *FINISHED,
            pods=[a_pod("execute", running_since=NOW, node="cpu-2")],
            sandbox=SANDBOX,
        ),
        (
            r"evaluate is complete; waiting for its sandbox's Job: execute is running on cpu-2 .+; "
            r"the coordinator's Job is gone, bring it back with helm upgrade .+"
        ),
    ),
    "the sandbox failed, the run did not": (
        a_run(
            *FINISHED,
            pods=[AT_WORK],
            coordinator=COORDINATOR,
            sandbox=replace(SANDBOX, failure=LOST.failure, failed=21),
        ),
        r"finished is complete since .+",
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
        (
            r"train is not released: the coordinator failed with 77: no rights; mend it, then "
            rf"{UPGRADE} --set run.attempt=2"
        ),
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
    "the coordinator failed and says what to do": (
        a_run(
            COMPLETE,
            a_job("train"),
            pods=[a_pod("coordinator", exit=Exit(66, "Error", f"66: x; {UPGRADE}", NOW))],
            coordinator=replace(COORDINATOR, failure=OVER),
        ),
        rf"train is not released: the coordinator failed with 66: x; {UPGRADE}",
    ),
    "at work, though the coordinator has failed": (
        a_run(
            RUNNING,
            a_job("generate"),
            pods=[a_pod("train", node="a", running_since=NOW)],
            coordinator=replace(COORDINATOR, failure=OVER),
        ),
        rf"train is running on a since .+; the coordinator failed: .+ {UPGRADE} --set .+",
    ),
    "all Jobs complete, the last manifest missing": (
        a_run(
            *FINISHED,
            pods=[a_pod("coordinator", exit=Exit(66, "Error", f"66: no manifest; {UPGRADE}", NOW))],
            coordinator=replace(TOLD, failure=OVER),
        ),
        rf"the run is not complete: the coordinator failed with 66: no manifest; {UPGRADE}",
    ),
    "complete, and all Jobs but the coordinator's deleted": (
        a_run(coordinator=replace(TOLD, complete=DONE), missing=STAGES),
        r"finished is complete since 2026-03-01 [\d:]+",
    ),
    "complete, a deleted Job made again": (
        a_run(*FINISHED[:3], a_job("evaluate"), coordinator=replace(TOLD, complete=DONE)),
        r"finished is complete since .+; the report lies at .+/evaluate/report.html",
    ),
    "the coordinator and the Jobs after these are gone": (
        a_run(*FINISHED[:3]),
        (
            r"all Jobs that are there are complete, but the coordinator's, which knows more, is "
            rf"gone; bring it back with {UPGRADE}"
        ),
    ),
    "the coordinator and a middle Job are gone": (
        a_run(COMPLETE, a_job("generate"), missing=["train"]),
        rf"train has no Job: it was deleted, or could not be made; bring it back with {UPGRADE}",
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
            *FINISHED[:3],
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
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_run_is_told_in_one_sentence(name):
    known, pattern = SENTENCES[name]
    said = diagnosis.explain(known)
    assert re.fullmatch(pattern, said), said
