"""A stage's Job as this package sees it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from qatune import STAGES

RUN, ATTEMPT = "qatune/run", "qatune/attempt"
COMPONENT, RELEASE = "app.kubernetes.io/component", "app.kubernetes.io/instance"
COORDINATOR, SANDBOX = "coordinator", "execute"
RELEASED = (*STAGES[:-1], SANDBOX, *STAGES[-1:])
"""Components whose Jobs the coordinator releases: the sandbox just before evaluate."""
STORE, AFTER = "qatune/store", "qatune/after"
RELEASED_AT, BLOCKED = "qatune/released-at", "qatune/blocked"
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
PARKED = "qatune-parked"  # a queue that does not exist


@dataclass(frozen=True)
class Condition:
    """Why and when a Job reached a state, in Kubernetes' words."""

    reason: str
    message: str
    at: datetime


@dataclass(frozen=True)
class StageJob:
    """One Job: a stage's, or the coordinator's."""

    stage: str
    name: str
    namespace: str
    uid: str
    version: str
    """Its resourceVersion, for patches that must not overwrite another's."""
    run: str
    release: str
    attempt: int
    created: datetime
    started: datetime | None
    suspended: bool
    suspended_by: str
    """Who has last set `suspended`, in the API's record of fields and their managers."""
    after: str | None
    store: str | None
    released_at: str | None
    blocked: str | None
    queue: str | None
    """Kueue's queue it is in now."""
    completions: int
    indexed: bool
    active: int
    succeeded: int
    failed: int
    failed_indexes: str
    """As `0,3-5`; empty where each index is not on its own."""
    told: Sequence[tuple[str, str]]
    """Of the coordinator: stages and the Jobs it looks after, in order."""
    complete: Condition | None
    failure: Condition | None

    @property
    def unreleased(self) -> bool:
        """Tell whether it waits for the coordinator still."""
        return self.suspended and self.released_at is None

    @property
    def set_back(self) -> bool:
        """Tell whether a release was undone by Helm: a rollback, or an upgrade beside it."""
        helm = self.suspended_by.startswith("helm")
        by_helm = self.queue == PARKED if self.queue else helm
        return self.suspended and self.released_at is not None and by_helm

    @property
    def sharded(self) -> bool:
        """Tell whether each of its pods works for itself."""
        return self.stage == "generate" and self.indexed and self.completions > 1


def read(found: Mapping[str, Any]) -> StageJob:
    """Read what the API says of a Job."""
    meta, spec, status = found["metadata"], found["spec"], found.get("status") or {}
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    return StageJob(
        stage=labels.get(COMPONENT, ""),
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        run=labels.get(RUN, ""),
        release=labels.get(RELEASE, ""),
        attempt=int(labels.get(ATTEMPT, 1)),
        created=moment(meta["creationTimestamp"]),
        started=moment(status["startTime"]) if status.get("startTime") else None,
        suspended=bool(spec.get("suspend")),
        suspended_by=_suspended_by(meta),
        after=notes.get(AFTER),
        store=notes.get(STORE),
        released_at=notes.get(RELEASED_AT),
        blocked=notes.get(BLOCKED),
        queue=labels.get(KUEUE_QUEUE),
        completions=spec.get("completions") or 1,
        indexed=spec.get("completionMode") == "Indexed",
        active=status.get("active") or 0,
        succeeded=status.get("succeeded") or 0,
        failed=status.get("failed") or 0,
        failed_indexes=status.get("failedIndexes") or "",
        told=_told(spec),
        complete=_condition(status, "Complete"),
        failure=_condition(status, "Failed"),
    )


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _told(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Read `--job=train=NAME` from the arguments of the coordinator's container."""
    pod = (spec.get("template") or {}).get("spec") or {}
    arguments = [
        each.removeprefix("--job=").partition("=")
        for container in pod.get("containers") or ()
        for each in container.get("args") or ()
        if each.startswith("--job=")
    ]
    return [(stage, name) for stage, _, name in arguments]


def _suspended_by(meta: Mapping[str, Any]) -> str:
    managers = [
        (each.get("time") or "", each.get("manager") or "")
        for each in meta.get("managedFields") or ()
        if "f:suspend" in each.get("fieldsV1", {}).get("f:spec", {})
    ]
    return max(managers, default=("", ""))[1]


def _condition(status: Mapping[str, Any], kind: str) -> Condition | None:
    for each in status.get("conditions") or ():
        if each["type"] == kind and each["status"] == "True":
            return Condition(
                each.get("reason") or "",
                each.get("message") or "",
                moment(each["lastTransitionTime"]),
            )
    return None
