"""What the cluster says of one run: read once, judged elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qatune import STAGES
from qatune.cluster import jobs, scheduling
from qatune.cluster.client import Cluster
from qatune.cluster.jobs import StageJob
from qatune.cluster.scheduling import Needs, Node
from qatune.errors import MissingInputError, NotAllowedError

_JOB_NAME = "batch.kubernetes.io/job-name"
_INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Exit:
    """How a container ended."""

    code: int
    reason: str
    message: str
    at: datetime | None


@dataclass(frozen=True)
class Pod:
    """A pod, and the one container in it that counts."""

    name: str
    job: str
    index: int | None
    """Which of an indexed Job's it is."""
    created: datetime
    phase: str
    node: str | None
    gone_by: datetime | None
    """Of a pod that is being deleted: when its time to end is over."""
    evicted: str | None
    """Why it was evicted by its node."""
    disrupted: str | None
    """Why the cluster ended it: drained, preempted, its node lost."""
    unschedulable: str | None
    """The scheduler's own words."""
    waiting: tuple[str, str] | None
    """Reason and message of a container that does not start."""
    running_since: datetime | None
    exit: Exit | None
    image: str
    memory_limit: str | None
    needs: Needs

    @property
    def deleting(self) -> bool:
        return self.gone_by is not None

    @property
    def running(self) -> bool:
        return self.running_since is not None and not self.deleting


@dataclass(frozen=True)
class Event:
    kind: str
    name: str
    reason: str
    message: str
    at: datetime


@dataclass(frozen=True)
class Quota:
    name: str
    used: Mapping[str, str]
    hard: Mapping[str, str]


@dataclass(frozen=True)
class Facts:
    """Everything that is known of a run. What may not be read is empty."""

    run: str
    namespace: str
    stages: Sequence[StageJob]
    """In the order in which they run."""
    coordinator: StageJob | None
    pods: Sequence[Pod]
    """Oldest first."""
    events: Sequence[Event]
    """Of this run's Jobs and pods, oldest first."""
    nodes: Sequence[Node]
    quotas: Sequence[Quota]
    now: datetime
    missing: Sequence[str] = ()
    """Stages of the run that have no Job."""
    others: Sequence[str] = ()
    """Other releases of the namespace at work on the same run."""
    sandbox: StageJob | None = None
    """What runs beside evaluate, where answers are run."""

    @property
    def any_job(self) -> StageJob:
        """One of the Jobs: all are of one release."""
        return self.coordinator or self.stages[0]

    def pods_of(self, job: StageJob) -> list[Pod]:
        return [pod for pod in self.pods if pod.job == job.name]

    def events_of(self, name: str, *reasons: str) -> list[Event]:
        """Return the events of a Job or pod with one of these reasons."""
        return [each for each in self.events if each.name == name and each.reason in reasons]


def gather(cluster: Cluster, run: str) -> Facts:
    """Read all that is needed; raise MissingInputError if there is no such run.

    Nodes, quotas and events may be closed to the user: then they are left out.
    """
    found, others = run_jobs(cluster, run)
    names = {job.name for job in found}
    coordinator = next((job for job in found if job.stage == jobs.COORDINATOR), None)
    pods = sorted(
        (_pod(each) for each in cluster.pods(f"{jobs.RUN}={run}")), key=lambda pod: pod.created
    )
    pods = [pod for pod in pods if pod.job in names]
    stuck = any(pod.unschedulable for pod in pods)
    return Facts(
        run=run,
        namespace=cluster.namespace,
        stages=[job for stage in STAGES for job in found if job.stage == stage],
        coordinator=coordinator,
        sandbox=next((job for job in found if job.stage == jobs.SANDBOX), None),
        missing=_missing(found, coordinator),
        others=others,
        pods=pods,
        events=_events(cluster, found),
        nodes=_nodes(cluster) if stuck else (),
        quotas=_quotas(cluster),
        now=datetime.now(UTC),
    )


def run_jobs(cluster: Cluster, run: str) -> tuple[list[StageJob], list[str]]:
    """Return the Jobs of a run's newest attempt, and the other releases at work on the run."""
    found = [jobs.read(each) for each in cluster.jobs(f"{jobs.RUN}={run}")]
    if not found:
        raise MissingInputError(_no_such_run(cluster, run))
    newest = max(found, key=lambda job: (job.created, job.attempt))
    ours = [job for job in found if (job.release, job.attempt) == (newest.release, newest.attempt)]
    at_work = {job.release for job in found if not (job.complete or job.failure)}
    return ours, sorted(at_work - {newest.release})


def _missing(found: Sequence[StageJob], coordinator: StageJob | None) -> list[str]:
    """Name the stages without a Job, as far as the Jobs that are there know of them."""
    if coordinator:
        names = {job.name for job in found}
        return [stage for stage, name in coordinator.told if name not in names]
    stages = {job.stage for job in found}
    return [job.after for job in found if job.after and job.after not in stages]


def _no_such_run(cluster: Cluster, run: str) -> str:
    there = sorted({jobs.read(each).run for each in cluster.jobs(jobs.RUN)})
    named = (
        f"runs there: {', '.join(there)}" if there else "there is none; --namespace names another"
    )
    return f"no run {run!r} in namespace {cluster.namespace}; {named}"


def _pod(found: Mapping[str, Any]) -> Pod:
    meta, spec, status = found["metadata"], found["spec"], found.get("status") or {}
    labels = meta.get("labels") or {}
    container = _named(spec["containers"], labels.get(jobs.COMPONENT, ""))
    state = _named(status.get("containerStatuses") or (), container["name"]).get("state") or {}
    waiting, running = state.get("waiting"), state.get("running")
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    disrupted = conditions.get("DisruptionTarget", {})
    evicted = status.get("reason") == "Evicted"
    return Pod(
        name=meta["name"],
        job=labels.get(_JOB_NAME, ""),
        index=int(labels[_INDEX]) if _INDEX in labels else None,
        created=jobs.moment(meta["creationTimestamp"]),
        phase=status.get("phase") or "Pending",
        node=spec.get("nodeName"),
        gone_by=_moment(meta.get("deletionTimestamp")),
        evicted=(status.get("message") or "").strip(" .") if evicted else None,
        disrupted=disrupted.get("message") if disrupted.get("status") == "True" else None,
        unschedulable=scheduled.get("message") if scheduled.get("status") == "False" else None,
        waiting=(waiting.get("reason") or "", waiting.get("message") or "") if waiting else None,
        running_since=_moment(running.get("startedAt")) if running else None,
        exit=_exit(state.get("terminated")),
        image=container["image"],
        memory_limit=((container.get("resources") or {}).get("limits") or {}).get("memory"),
        needs=scheduling.needs(spec),
    )


def _named(containers: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the container of that name: a mesh may have added others."""
    return next(
        (each for each in containers if each["name"] == name), {**next(iter(containers), {})}
    )


def _exit(found: Mapping[str, Any] | None) -> Exit | None:
    if not found:
        return None
    message = " ".join((found.get("message") or "").split())
    at = _moment(found.get("finishedAt"))
    return Exit(found["exitCode"], found.get("reason") or "", message, at)


def _moment(text: str | None) -> datetime | None:
    return jobs.moment(text) if text else None


def _events(cluster: Cluster, ours: Sequence[StageJob]) -> list[Event]:
    """Return the events of these Jobs and of their pods, which may be gone.

    What happened before a Job was made is of an earlier one of its name.
    """
    try:
        found = [_event(each) for each in cluster.events()]
    except NotAllowedError:
        return []
    kept = [
        each
        for each in found
        if any(
            each.at >= job.created and (each.name == job.name or is_pod_of(each.name, job.name))
            for job in ours
        )
    ]
    return sorted(kept, key=lambda event: event.at)


def _event(found: Mapping[str, Any]) -> Event:
    about, series = found["involvedObject"], found.get("series") or {}
    at = (
        found.get("lastTimestamp")
        or series.get("lastObservedTime")
        or found.get("eventTime")
        or found["metadata"]["creationTimestamp"]
    )
    return Event(
        kind=about.get("kind", ""),
        name=about.get("name", ""),
        reason=found.get("reason") or "",
        message=" ".join((found.get("message") or "").split()),
        at=jobs.moment(at),
    )


def is_pod_of(name: str, job: str) -> bool:
    """Tell by a pod's name whose it was: `<job>-<random>`, or `<job>-<index>-<random>`."""
    return job in {name.rsplit("-", 1)[0], name.rsplit("-", 2)[0]}


def _nodes(cluster: Cluster) -> list[Node]:
    """Return the nodes with what is used of them, or nothing where either may not be read."""
    try:
        found, pods = cluster.nodes(), cluster.pods_on_nodes()
    except NotAllowedError:
        return []
    return [scheduling.node(each, pods) for each in found]


def _quotas(cluster: Cluster) -> list[Quota]:
    try:
        found = cluster.quotas()
    except NotAllowedError:
        return []
    return [
        Quota(
            each["metadata"]["name"],
            (each.get("status") or {}).get("used") or {},
            (each.get("status") or {}).get("hard") or {},
        )
        for each in found
    ]
