"""Why pods of a Job do not run yet, in words. Pure: each function looks for one cause."""

import re
from collections.abc import Callable, Mapping, Sequence

from qatune.cluster import failures, scheduling
from qatune.cluster.ends import local_time
from qatune.cluster.facts import Facts, Pod, Quota
from qatune.cluster.jobs import StageJob

_LATE_SECONDS = 60
"""Nodes at work confirm the end of a pod in less."""
_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_QUOTA = re.compile(r"exceeded quota: (\S+), requested: (.*?), used: (.*?), limited: (.*)")
_UNSPECIFIED = re.compile(r"failed quota: (\S+): must specify (.*?)(?: for: .*)?$")
_POD_SECURITY = re.compile(r'violates PodSecurity "([^":]+)[^"]*": (.*)')
_FORBIDDEN = re.compile(r'^Error creating: pods "[^"]*" is forbidden: ')


def why(facts: Facts, job: StageJob) -> str | None:
    """Say why pods of the Job do not run; None if there is no reason but time."""
    for cause in _CAUSES:
        said = cause(facts, job)
        if said:
            return said
    return None


def _pods_refused(facts: Facts, job: StageJob) -> str | None:
    """Tell that no pod can be made, as the namespace's rules forbid it."""
    refused = facts.events_of(job.name, "FailedCreate")
    made = facts.events_of(job.name, "SuccessfulCreate")
    if not refused or (made and made[-1].at > refused[-1].at):
        return None
    said = _FORBIDDEN.sub("", refused[-1].message)
    quota, unspecified = _QUOTA.search(said), _UNSPECIFIED.search(said)
    if quota:
        return _quota(facts, job, quota)
    if unspecified:
        return (
            f"{_lacks(facts, job)}: quota {unspecified[1]} of namespace {facts.namespace} wants "
            f"{unspecified[2]} to be given; set it under stages.{job.stage}.resources"
        )
    security = _POD_SECURITY.search(said)
    if security:
        return (
            f"{_lacks(facts, job)}: namespace {facts.namespace} enforces Pod Security "
            f"{security[1]}, which forbids {security[2]}"
        )
    return f"{_lacks(facts, job)}: {said}"


def _quota(facts: Facts, job: StageJob, found: re.Match[str]) -> str:
    name, asked, used, limit = found.groups()
    current = next((each for each in facts.quotas if each.name == name), Quota(name, {}, {}))
    limits, uses = _amounts(limit) | dict(current.hard), _amounts(used)
    if _fits(_amounts(asked), current.used, limits):
        return (
            f"{_lacks(facts, job)} yet: quota {name} of namespace {facts.namespace} had no "
            "room; it has now, and the Job tries again by itself"
        )
    rooms = [
        f"{current.used.get(what, uses.get(what, '?'))} of {limits.get(what, '?')} is used"
        for what in _amounts(asked)
    ]
    wishes = " and ".join(f"{amount} {what}" for what, amount in _amounts(asked).items())
    return (
        f"{_lacks(facts, job)}: quota {name} of namespace {facts.namespace} allows no more: "
        f"a pod asks for {wishes}, and {' and '.join(rooms)}"
    )


def _fits(asked: Mapping[str, str], used: Mapping[str, str], limits: Mapping[str, str]) -> bool:
    """Tell whether what is asked has room beside what is used now, as far as that is known."""
    return all(
        what in used
        and what in limits
        and scheduling.quantity(amount) + scheduling.quantity(used[what])
        <= scheduling.quantity(limits[what])
        for what, amount in asked.items()
    )


def _amounts(text: str) -> dict[str, str]:
    """Read `requests.cpu=2,pods=1`."""
    pairs = (pair.partition("=") for pair in text.split(","))
    return {name.strip(): amount for name, _, amount in pairs}


def _lacks(facts: Facts, job: StageJob) -> str:
    running = sum(pod.running for pod in facts.pods_of(job))
    if not running:
        return f"{job.stage} gets no pod"
    return f"{job.stage} runs {in_pods(running)} and gets no more"


def _unschedulable(facts: Facts, job: StageJob) -> str | None:
    waiting = [pod for pod in facts.pods_of(job) if pod.unschedulable and not pod.deleting]
    if not waiting:
        return None
    pod = waiting[0]
    said = f"{_who(facts, job, waiting)} for {scheduling.wanted(pod.needs)}; {_verdict(facts, pod)}"
    added = facts.events_of(pod.name, "TriggeredScaleUp")
    return f"{said}; the autoscaler is adding a node" if added else said


def _verdict(facts: Facts, pod: Pod) -> str:
    assert pod.unschedulable is not None
    fit, lacks = scheduling.verdict(pod.needs, facts.nodes)
    if facts.nodes and not fit:
        count = len(facts.nodes)
        return f"0 of {count} node{'s' if count > 1 else ''} fit{'' if count > 1 else 's'}: {lacks}"
    # Nodes may not be read, or what the scheduler minds is not known here.
    return f"the scheduler says: {pod.unschedulable.partition('. ')[0].rstrip('.')}"


def _image(facts: Facts, job: StageJob) -> str | None:
    stuck = _stuck(facts, job, _IMAGE_REASONS)
    if stuck is None or stuck.waiting is None:
        return None
    said = stuck.waiting[1]
    failed = [
        event.message
        for event in facts.events_of(stuck.name, "Failed")
        if event.message.startswith("Failed to pull image")
    ]
    reason = (failed or [said])[-1].rpartition(f'"{stuck.image}": ')[2]
    return (
        f"{job.stage}: image cannot be pulled: {stuck.image}: {reason}; if the name is wrong, "
        f"correct it with {failures.upgrade(job)}"
    )


def _configuration(facts: Facts, job: StageJob) -> str | None:
    """Tell that a secret or a ConfigMap is not there."""
    stuck = _stuck(facts, job, {"CreateContainerConfigError"})
    if stuck is not None and stuck.waiting is not None:
        missing = stuck.waiting[1]
    else:
        mounts = [
            event.message
            for pod in facts.pods_of(job)
            if pod.waiting and pod.waiting[0] == "ContainerCreating"
            for event in facts.events_of(pod.name, "FailedMount", "FailedAttachVolume")
            if "timed out waiting for the condition" not in event.message
        ]
        if not mounts:
            return None
        missing = mounts[-1].rpartition(" : ")[2]
    mend = "add that key" if "find key" in missing else "create it"
    return (
        f"{job.stage} cannot start: {missing}; {mend} in namespace {facts.namespace} and the "
        "stage starts by itself"
    )


def _not_started(facts: Facts, job: StageJob) -> str | None:
    """Tell that the node tried and could not."""
    stuck = _stuck(facts, job, {"CreateContainerError", "RunContainerError"})
    said = stuck.waiting[1] if stuck and stuck.waiting else None
    if said is None:
        sandbox = [
            event
            for pod in facts.pods_of(job)
            if pod.waiting and pod.waiting[0] == "ContainerCreating"
            for event in facts.events_of(pod.name, "FailedCreatePodSandBox")
        ]
        said = sandbox[-1].message if sandbox else None
    return f"{job.stage} cannot start on its node: {said}" if said else None


def _node_lost(facts: Facts, job: StageJob) -> str | None:
    """Tell that a pod does not go away: only when its node says that it ended, it is replaced."""
    for pod in facts.pods_of(job):
        if pod.gone_by and pod.node and (facts.now - pod.gone_by).total_seconds() > _LATE_SECONDS:
            return (
                f"{job.stage} waits for the end of pod {pod.name}, which should have been gone at "
                f"{local_time(pod.gone_by)}: node {pod.node} does not confirm it; if that node is "
                f"lost, kubectl delete node {pod.node}, and the pod is replaced"
            )
    return None


def _starting(facts: Facts, job: StageJob) -> str | None:
    if any(pod.running for pod in facts.pods_of(job)):
        return None
    for pod in starting(facts, job):
        pulling, pulled = facts.events_of(pod.name, "Pulling"), facts.events_of(pod.name, "Pulled")
        if pulling and not pulled:
            return f"{job.stage} is starting: {pod.node} pulls image {pod.image}"
        where = f" on {pod.node}" if pod.node else ""
        return f"{job.stage} is starting{where}"
    return None


def starting(facts: Facts, job: StageJob) -> list[Pod]:
    """Return the pods that have been made and do not run yet."""
    return [pod for pod in facts.pods_of(job) if pod.phase == "Pending" and not pod.deleting]


_CAUSES: Sequence[Callable[[Facts, StageJob], str | None]] = (
    _pods_refused,
    _image,
    _configuration,
    _not_started,
    _node_lost,
    _unschedulable,
    _starting,
)


def _stuck(facts: Facts, job: StageJob, reasons: set[str]) -> Pod | None:
    for pod in facts.pods_of(job):
        if pod.waiting and pod.waiting[0] in reasons and not pod.deleting:
            return pod
    return None


def _who(facts: Facts, job: StageJob, waiting: Sequence[Pod]) -> str:
    running = sum(pod.running for pod in facts.pods_of(job))
    if not running:
        return f"{job.stage} waits"
    verb = "waits" if len(waiting) == 1 else "wait"
    return f"{job.stage} runs {in_pods(running)}, and {len(waiting)} more {verb}"


def in_pods(count: int) -> str:
    return "in 1 pod" if count == 1 else f"in {count} pods"
