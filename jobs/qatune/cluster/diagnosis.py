"""What a run is doing, or why it is not running, in one sentence. Pure."""

from datetime import datetime

from qatune.cluster import failures, waiting
from qatune.cluster.facts import Event, Exit, Facts, Pod, is_pod_of
from qatune.cluster.jobs import StageJob

_GONE = ("Evicted", "Preempted", "TaintManagerEviction", "NodeNotReady", "Killing")
"""Events of pods that somebody else ended."""
_OUT_OF_MEMORY = "OOMKilled"
_INTERRUPTED = 75
_RELEASED_WITHIN_SECONDS = 30
_LAST = "evaluate"
_UPGRADE = "helm upgrade"
_REPLACED = " and is replaced, progress is saved"


def explain(facts: Facts) -> str:
    """Go along the stages to the first that is not complete."""
    coordinator = facts.coordinator
    if coordinator and coordinator.complete:
        return _complete(facts, coordinator.complete.at)
    for position, job in enumerate(facts.stages):
        if job.complete is None or job.blocked:
            if job.unreleased and job.after in facts.missing and not job.blocked:
                return _missing(facts, job.after)
            said = _of_stage(facts, job, facts.stages[position - 1] if position else None)
            return said + _unattended(facts, job)
    return _at_the_end(facts)


def _at_the_end(facts: Facts) -> str:
    """Tell whether the Jobs that are there, all complete, are all of the run."""
    coordinator = facts.coordinator
    if coordinator and coordinator.failure:
        return f"the run is not complete: {_coordinator_failed(facts, coordinator)}"
    if coordinator and coordinator.told and coordinator.told[-1][0] in facts.missing:
        return _missing(facts, coordinator.told[-1][0])
    last = facts.stages[-1] if facts.stages else None
    if last and last.complete and (coordinator or last.stage == _LAST):
        return _complete(facts, last.complete.at)
    return (
        "all Jobs that are there are complete, but the coordinator's, which knows more, is gone; "
        f"bring it back with {failures.again(facts.any_job)}"
    )


def _missing(facts: Facts, stage: str | None) -> str:
    """Say how to get a Job back that was deleted, or that could not be made."""
    job = facts.any_job
    failed = facts.coordinator and facts.coordinator.failure
    upgrade = failures.upgrade(job) if failed else failures.again(job)
    return f"{stage} has no Job: it was deleted, or could not be made; bring it back with {upgrade}"


def _unattended(facts: Facts, job: StageJob) -> str:
    """Warn while a stage is at work that nobody will release the next."""
    if job.unreleased or job.failure or job.blocked or job is facts.stages[-1]:
        return ""
    coordinator = facts.coordinator
    if coordinator is None:
        return f"; the coordinator's Job is gone, bring it back with {failures.again(job)}"
    return f"; {_coordinator_failed(facts, coordinator)}" if coordinator.failure else ""


def _complete(facts: Facts, at: datetime) -> str:
    end = f"{facts.run} is complete since {_time(at)}"
    job = facts.stages[-1] if facts.stages else None
    if job is None or job.store is None:
        return end
    page = "report.html" if job.stage == _LAST else "manifest.json"
    what = "the report" if job.stage == _LAST else "its last manifest"
    return f"{end}; {what} lies at {job.store.rstrip('/')}/runs/{job.run}/{job.stage}/{page}"


def _of_stage(facts: Facts, job: StageJob, upstream: StageJob | None) -> str:
    if job.failure:
        return failed(facts, job)
    if job.blocked:
        return job.blocked
    if job.suspended:
        return _suspended(facts, job, upstream)
    return waiting_or_running(facts, job)


def _suspended(facts: Facts, job: StageJob, upstream: StageJob | None) -> str:
    if job.unreleased:
        return _unreleased(facts, job, upstream)
    if job.queue:
        return (
            f"{job.stage} is parked behind Kueue queue {job.queue} since {job.released_at}: "
            "Kueue starts it when the queue has room "
            f"(kubectl get workloads --namespace {facts.namespace})"
        )
    return (
        f"{job.stage} was suspended by hand after its release; resume it with kubectl patch job "
        f'{job.name} --namespace {facts.namespace} --patch \'{{"spec":{{"suspend":false}}}}\''
    )


def _unreleased(facts: Facts, job: StageJob, upstream: StageJob | None) -> str:
    """Nothing keeps the stage back but the coordinator: look at that one."""
    ready = f"{upstream.stage} is complete" if upstream else "nothing is before it"
    coordinator = facts.coordinator
    if coordinator is None:
        return (
            f"{job.stage} is not released, though {ready}: the coordinator's Job is gone; bring it "
            f"back with {failures.again(job)}"
        )
    if coordinator.failure:
        return f"{job.stage} is not released: {_coordinator_failed(facts, coordinator)}"
    if coordinator.suspended:
        return f"{job.stage} is not released: the coordinator is suspended"
    if any(pod.running for pod in facts.pods_of(coordinator)):
        since = upstream.complete.at if upstream and upstream.complete else job.created
        if (facts.now - since).total_seconds() < _RELEASED_WITHIN_SECONDS:
            return f"{job.stage} is about to be released by the coordinator"
        return (
            f"{job.stage} is not released, though {ready}: the coordinator runs, and "
            f"says why: kubectl logs job/{coordinator.name} --namespace {facts.namespace}"
        )
    said = waiting.why(facts, coordinator) or interruption(facts, coordinator)
    said = said or "the coordinator has no pod yet"
    return f"{job.stage} waits for the coordinator: {said}"


def _coordinator_failed(facts: Facts, coordinator: StageJob) -> str:
    """Repeat its own last words, which may say what to do."""
    last = _last_failed(facts, coordinator)
    said = f"the {failures.what_failed(coordinator)}"
    if last and last.exit:
        said = f"the coordinator failed with {_with_message(last.exit)}"
    return said if _UPGRADE in said else f"{said}; {failures.then_upgrade(coordinator)}"


def failed(facts: Facts, job: StageJob) -> str:
    """Say why a stage failed, best in the words of its last pod."""
    last = _last_failed(facts, job)
    told = _as_coordinator_told(facts, job) or failures.what_failed(job)
    if last is None or last.exit is None:
        return f"{told}; {failures.then_upgrade(job)}"
    if last.exit.reason == _OUT_OF_MEMORY:
        return f"{_killed_for_memory(facts, job)}, then {failures.upgrade(job)}"
    if last.evicted is not None:
        return f"{job.stage} was evicted: {last.evicted}; {failures.then_upgrade(job)}"
    end = _with_message(last.exit)
    told = f"{told}; the last with {end}" if job.sharded else f"{job.stage} failed with {end}"
    if not last.exit.message:
        told += f"; its log: kubectl logs {last.name} --namespace {facts.namespace}"
    return f"{told}; {failures.then_upgrade(job)}"


def _as_coordinator_told(facts: Facts, job: StageJob) -> str | None:
    """Take its sentence on this Job: it names the rows that failed shards have not answered."""
    said = [later.blocked for later in facts.stages if later.blocked]
    said += [event.message for event in facts.events_of(job.name, "StageFailed")]
    told = (failures.without_way_out(each) for each in said)
    return next((each for each in told if each.startswith(failures.what_failed(job))), None)


def _with_message(end: Exit) -> str:
    """Put code and the pod's last words together: `65: column 'answer' not found`."""
    # What a person would do at a terminal, Kubernetes does, or an upgrade.
    words = end.message.removeprefix(f"{end.code}: ").partition("; run the same command again")[0]
    return f"{end.code}: {words}" if words else failures.with_meaning(end.code)


def _killed_for_memory(facts: Facts, job: StageJob) -> str:
    limits = [pod.memory_limit for pod in facts.pods_of(job) if pod.memory_limit]
    limit = f" at its limit of {limits[-1]}" if limits else ", as its node had none left"
    return (
        f"{job.stage} was killed for memory{limit}; "
        f"raise stages.{job.stage}.resources.limits.memory"
    )


def waiting_or_running(facts: Facts, job: StageJob) -> str:
    said = waiting.why(facts, job)
    before = interruption(facts, job)
    if said:
        return f"{said} (before: {before})" if before else said
    running = [pod for pod in facts.pods_of(job) if pod.running]
    if running:
        return _running(job, running, before)
    leaving = [pod for pod in facts.pods_of(job) if pod.deleting]
    if leaving:
        reason = f"pod {leaving[-1].name} is being deleted{_REPLACED}"
        again = f"; before: {before}" if before and leaving[-1].name not in before else ""
        return f"{job.stage} is interrupted: {before if before and not again else reason}{again}"
    if before:
        return f"{job.stage} is about to start again: {before}"
    return f"{job.stage} is released; its pod is about to be created"


def _running(job: StageJob, running: list[Pod], before: str | None) -> str:
    since = min(pod.running_since for pod in running if pod.running_since)
    nodes = sorted({pod.node for pod in running if pod.node})
    where = f"on {nodes[0]}" if len(nodes) == 1 else f"on {len(nodes)} nodes"
    done = f", {job.succeeded} of {job.completions} shards are done" if job.sharded else ""
    done += f", failed for good: {job.failed_indexes}" if job.failed_indexes else ""
    pods = "" if len(running) == 1 else f" in {len(running)} pods"
    again = f"; before: {before}" if before else ""
    return f"{job.stage} is running{pods} {where} since {_time(since)}{done}{again}"


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
        and event.reason in _GONE
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
    return f"pod {event.name} {why} at {_time(event.at)}{_REPLACED}"


def _ended(facts: Facts, job: StageJob, pod: Pod) -> str | None:
    if pod.evicted is not None:
        return f"pod {pod.name} was evicted ({pod.evicted}){_REPLACED}"
    if pod.disrupted is not None:
        return f"pod {pod.name} was ended ({pod.disrupted}){_REPLACED}"
    if pod.exit is None or pod.exit.code == 0:
        return None
    if pod.exit.reason == _OUT_OF_MEMORY:
        return _killed_for_memory(facts, job)
    return f"pod {pod.name} ended with {_with_message(pod.exit)}"


def _last_failed(facts: Facts, job: StageJob) -> Pod | None:
    """Return the pod that failed last, of those that were not told to stop."""
    ends = [
        (pod.exit.at.timestamp() if pod.exit.at else 0.0, pod)
        for pod in facts.pods_of(job)
        if pod.exit and pod.exit.code and pod.exit.code != _INTERRUPTED
    ]
    return max(ends, key=lambda end: end[0])[1] if ends else None


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
