"""What a run is doing, or why it is not running, in one sentence. Pure."""

from datetime import datetime

from qatune.cluster import ends, failures, waiting
from qatune.cluster.ends import local_time
from qatune.cluster.facts import Facts, Pod
from qatune.cluster.jobs import StageJob

_RELEASED_WITHIN_SECONDS = 30
_LAST = "evaluate"
_UPGRADE = "helm upgrade"


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
            return said + _sandboxed(facts, job) + _unattended(facts, job)
    return _at_the_end(facts)


def _at_the_end(facts: Facts) -> str:
    """Tell whether the Jobs that are there, all complete, are all of the run."""
    coordinator = facts.coordinator
    if coordinator and coordinator.failure:
        return f"the run is not complete: {_coordinator_failed(facts, coordinator)}"
    if coordinator and coordinator.told and coordinator.told[-1][0] in facts.missing:
        return _missing(facts, coordinator.told[-1][0])
    last = facts.stages[-1] if facts.stages else None
    if last and last.stage == _LAST and facts.sandbox:
        return _closing(facts, last, facts.sandbox)
    if last and last.complete and (coordinator or last.stage == _LAST):
        return _complete(facts, last.complete.at)
    return (
        "all Jobs that are there are complete, but the coordinator's, which knows more, is gone; "
        f"bring it back with {failures.again(facts.any_job)}"
    )


def _closing(facts: Facts, last: StageJob, sandbox: StageJob) -> str:
    """Name the sandbox's Job, if the coordinator, after evaluate, still waits for it."""
    assert last.complete
    if sandbox.complete or sandbox.failure:
        return _complete(facts, last.complete.at)
    if sandbox.suspended:
        said = _suspended(facts, sandbox, last)
    else:
        said = waiting_or_running(facts, sandbox)
    said = f"evaluate is complete; waiting for its sandbox's Job: {said}"
    if facts.coordinator is None and not sandbox.unreleased:
        again = failures.again(sandbox)
        return f"{said}; the coordinator's Job is gone, bring it back with {again}"
    return said


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


def _sandboxed(facts: Facts, job: StageJob) -> str:
    """Say why evaluate waits for its sandbox, where it does."""
    sandbox = facts.sandbox
    if sandbox is None or job.stage != _LAST or job.suspended or job.failure or sandbox.complete:
        return ""
    if sandbox.failure:
        return f"; its sandbox is gone: {ends.failed(facts, sandbox)}"
    said = _suspended(facts, sandbox, None) if sandbox.suspended else waiting.why(facts, sandbox)
    return f"; its sandbox: {said}" if said else ""


def _complete(facts: Facts, at: datetime) -> str:
    end = f"{facts.run} is complete since {local_time(at)}"
    job = facts.stages[-1] if facts.stages else None
    if job is None or job.store is None:
        return end
    page = "report.html" if job.stage == _LAST else "manifest.json"
    what = "the report" if job.stage == _LAST else "its last manifest"
    return f"{end}; {what} lies at {job.store.rstrip('/')}/runs/{job.run}/{job.stage}/{page}"


def _of_stage(facts: Facts, job: StageJob, upstream: StageJob | None) -> str:
    if job.failure:
        return ends.failed(facts, job)
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
    said = waiting.why(facts, coordinator) or ends.interruption(facts, coordinator)
    said = said or "the coordinator has no pod yet"
    return f"{job.stage} waits for the coordinator: {said}"


def _coordinator_failed(facts: Facts, coordinator: StageJob) -> str:
    """Repeat its own last words, which may say what to do."""
    last = ends.behind(facts, coordinator)
    said = f"the {failures.what_failed(coordinator)}"
    if last and last.exit:
        said = f"the coordinator failed with {ends.with_message(last.exit)}"
    return said if _UPGRADE in said else f"{said}; {failures.then_upgrade(coordinator)}"


def waiting_or_running(facts: Facts, job: StageJob) -> str:
    said = waiting.why(facts, job)
    before = ends.interruption(facts, job)
    if said:
        return f"{said} (before: {before})" if before else said
    running = [pod for pod in facts.pods_of(job) if pod.running]
    if running:
        return _running(job, running, len(waiting.starting(facts, job)), before)
    leaving = [pod for pod in facts.pods_of(job) if pod.deleting]
    if leaving:
        reason = f"pod {leaving[-1].name} is being deleted{ends.REPLACED}"
        again = f"; before: {before}" if before and leaving[-1].name not in before else ""
        return f"{job.stage} is interrupted: {before if before and not again else reason}{again}"
    if before:
        return f"{job.stage} is about to start again: {before}"
    return f"{job.stage} is released; its pod is about to be created"


def _running(job: StageJob, running: list[Pod], starting: int, before: str | None) -> str:
    since = min(pod.running_since for pod in running if pod.running_since)
    nodes = sorted({pod.node for pod in running if pod.node})
    where = f"on {nodes[0]}" if len(nodes) == 1 else f"on {len(nodes)} nodes"
    done = f", {job.succeeded} of {job.completions} shards are done" if job.sharded else ""
    done += f", failed for good: {job.failed_indexes}" if job.failed_indexes else ""
    pods = f" {waiting.in_pods(len(running))}" if len(running) + starting > 1 else ""
    done += f", {starting} more to start" if starting else ""
    again = f"; before: {before}" if before else ""
    return f"{job.stage} is running{pods} {where} since {local_time(since)}{done}{again}"
