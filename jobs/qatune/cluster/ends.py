"""How pods came to their ends, and which of them failed their Job, in words. Pure."""

from datetime import UTC, datetime

from qatune.cluster import failures
from qatune.cluster.facts import Event, Exit, Facts, Pod, is_pod_of
from qatune.cluster.jobs import StageJob

_BY_OTHERS = ("Evicted", "Preempted", "TaintManagerEviction", "NodeNotReady", "Killing")
"""Events of pods that somebody else ended."""
_OUT_OF_MEMORY = "OOMKilled"
_INTERRUPTED = 75
_FOLLOWING = {70, 143}
"""Exit codes of a process that has lost the others, or was told to stop: not what began it."""
_NEVER = datetime.min.replace(tzinfo=UTC)
REPLACED = " and is replaced; the new one goes on from what was saved"


def failed(facts: Facts, job: StageJob) -> str:
    """Say why a stage failed: what its Job says of it, and the last words of the pod behind it."""
    assert job.failure is not None
    told = _as_coordinator_told(facts, job) or failures.what_failed(job)
    pod = behind(facts, job)
    if pod is None or pod.exit is None:
        return f"{told}; {failures.then_upgrade(job)}"
    subject = job.stage
    if job.failed_indexes:
        subject = f"{told}; {'the last' if job.sharded else 'its pod'}"
    if pod.exit.reason == _OUT_OF_MEMORY:
        return f"{subject} {_killed_for_memory(facts, job)}, then {failures.upgrade(job)}"
    return f"{subject} {_end(facts, pod, pod.exit)}; {failures.then_upgrade(job)}"


def _end(facts: Facts, pod: Pod, end: Exit) -> str:
    if pod.evicted is not None:
        return f"was evicted: {pod.evicted}"
    log = "" if end.message else f"; its log: kubectl logs {pod.name} --namespace {facts.namespace}"
    return f"failed with {with_message(end)}{log}"


def _as_coordinator_told(facts: Facts, job: StageJob) -> str | None:
    """Take its sentence on this Job: it names the rows that failed shards have not answered."""
    said = [later.blocked for later in facts.stages if later.blocked]
    said += [event.message for event in facts.events_of(job.name, "StageFailed")]
    told = (failures.without_way_out(each) for each in said)
    return next((each for each in told if each.startswith(failures.what_failed(job))), None)


def behind(facts: Facts, job: StageJob) -> Pod | None:
    """Return the pod whose end failed the Job; None if it is gone, or if it was none.

    Of pods that train together all end when one does: what began it comes before what followed.
    """
    assert job.failure is not None
    if job.failure.reason == "DeadlineExceeded":
        return None
    code, lost = failures.exit_code(job), failures.indexes(job.failed_indexes)
    together = job.completions > 1 and not lost

    def likeliness(pod: Pod) -> tuple[bool, bool, datetime]:
        assert pod.exit is not None
        follows = together and pod.exit.code in _FOLLOWING
        return pod.exit.code == code, not follows, pod.exit.at or _NEVER

    ended = [
        pod
        for pod in facts.pods_of(job)
        if pod.exit and pod.exit.code not in {0, _INTERRUPTED} and (not lost or pod.index in lost)
    ]
    return max(ended, key=likeliness, default=None)


def with_message(end: Exit) -> str:
    """Put code and the pod's last words together: `65: column 'answer' not found`."""
    # What a person would do at a terminal, Kubernetes does, or an upgrade.
    words = end.message.removeprefix(f"{end.code}: ").partition("; run the same command again")[0]
    return f"{end.code}: {words}" if words else failures.with_meaning(end.code)


def _killed_for_memory(facts: Facts, job: StageJob) -> str:
    limits = [pod.memory_limit for pod in facts.pods_of(job) if pod.memory_limit]
    limit = f" at its limit of {limits[-1]}" if limits else ", as its node had none left"
    return f"was killed for memory{limit}; raise stages.{job.stage}.resources.limits.memory"


def interruption(facts: Facts, job: StageJob) -> str | None:
    """Say how the last pod that is over came to its end, if that was not its own."""
    over = [pod for pod in facts.pods_of(job) if pod.exit or pod.evicted or pod.disrupted]
    if over:
        return _ended(facts, job, over[-1])
    there = {pod.name for pod in facts.pods}
    gone = [
        event
        for event in facts.events
        if event.kind == "Pod"
        and event.reason in _BY_OTHERS
        and is_pod_of(event.name, job.name)
        and event.name not in there
    ]
    return _gone(gone[-1]) if gone else None


def _gone(event: Event) -> str:
    why = {
        "Evicted": f"was evicted ({event.message})",
        "Preempted": "made room for a pod of higher priority",
        "TaintManagerEviction": "was evicted by a taint of its node",
        "NodeNotReady": "lost its node",
        "Killing": "was deleted",
    }[event.reason]
    return f"pod {event.name} {why} at {local_time(event.at)}{REPLACED}"


def _ended(facts: Facts, job: StageJob, pod: Pod) -> str | None:
    if pod.evicted is not None:
        return f"pod {pod.name} was evicted ({pod.evicted}){REPLACED}"
    if pod.disrupted is not None:
        return f"pod {pod.name} was ended ({pod.disrupted}){REPLACED}"
    if pod.exit is None or pod.exit.code == 0:
        return None
    if pod.exit.reason == _OUT_OF_MEMORY:
        return f"{job.stage} {_killed_for_memory(facts, job)}"
    return f"pod {pod.name} ended with {with_message(pod.exit)}"


def local_time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
