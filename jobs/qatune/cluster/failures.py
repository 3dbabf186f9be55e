"""Why a stage's Job failed, in one sentence, and what to do. Pure."""

import re

from qatune.cluster.jobs import StageJob

MEANINGS = {
    1: "an error outside of qatune",
    64: "wrong command line",
    65: "bad data",
    66: "missing or invalid input",
    69: "a service did not answer",
    70: "a bug",
    75: "interrupted, progress is saved",
    77: "not allowed",
    78: "bad recipe",
    126: "the command cannot be run in this image",
    127: "no such command in this image",
    137: "killed: out of memory, or by hand",
    139: "crashed",
    143: "stopped before it could save",
}
_MEND = "mend the cause"
_EXIT_CODE = re.compile(r"failed with exit code (\d+)")


def exit_code(job: StageJob) -> int | None:
    """Return the exit code that failed the Job, where the Job itself tells it."""
    found = _EXIT_CODE.search(job.failure.message) if job.failure else None
    return int(found[1]) if found else None


def with_meaning(code: int) -> str:
    meaning = MEANINGS.get(code)
    return f"exit code {code} ({meaning})" if meaning else f"exit code {code}"


def what_failed(job: StageJob) -> str:
    """Say how a failed Job failed: `train failed with exit code 65 (bad data)`."""
    assert job.failure is not None
    code = exit_code(job)
    if code is not None:
        return f"{job.stage} failed with {with_meaning(code)}"
    match job.failure.reason:
        case "FailedIndexes" | "MaxFailedIndexesExceeded":
            if job.completions == 1:
                return f"{job.stage} failed"
            return (
                f"{job.stage} failed in {_count(job.failed_indexes):,} of {job.completions:,} "
                f"shards: {_shown(job.failed_indexes)}"
            )
        case "BackoffLimitExceeded":
            return f"{job.stage} failed {job.failed} times and is not tried again"
        case "DeadlineExceeded":
            return f"{job.stage} took longer than stages.{job.stage}.activeDeadlineSeconds allows"
        case reason:
            return f"{job.stage} failed: {reason}: {job.failure.message}"


def way_out(job: StageJob) -> str:
    return f"{_MEND} (`qatune explain {job.run}` names it), then {upgrade(job)}"


def without_way_out(sentence: str) -> str:
    """Return what `way_out` was added to."""
    return sentence.partition(f"; {_MEND}")[0]


def then_upgrade(job: StageJob) -> str:
    return f"mend it, then {upgrade(job)}"


def again(job: StageJob) -> str:
    """Make what a release lacks once more."""
    return f"helm upgrade {job.release} CHART --namespace {job.namespace} --reset-then-reuse-values"


def upgrade(job: StageJob) -> str:
    """Start the next attempt."""
    return f"{again(job)} --set run.attempt={job.attempt + 1}"


def indexes(text: str) -> list[int]:
    """Read Kubernetes' form of a set of numbers: `0,3-5`."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _count(text: str) -> int:
    return len(indexes(text))


def _shown(text: str, most: int = 8) -> str:
    parts = text.split(",")
    more = f" and {len(parts) - most} more ranges" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more
