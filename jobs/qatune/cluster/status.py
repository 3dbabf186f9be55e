"""Where a run is: a line a stage, from the cluster and the store, or from the store alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from qatune import STAGES
from qatune.cluster import diagnosis, ends
from qatune.cluster.facts import Facts
from qatune.cluster.jobs import RELEASED, StageJob
from qatune.errors import QatuneError
from qatune.store import artifacts, manifests, shards
from qatune.store.heartbeats import heartbeat
from qatune.store.objects import Store

_STALE_SECONDS = 60
"""A heartbeat older than this comes from a pod that is gone, or hangs."""


@dataclass(frozen=True)
class Line:
    """One stage. What is not known is None."""

    stage: str
    state: str
    pods: str | None
    progress: Mapping[str, Any] | None
    """As in progress.json: done, total, unit, rate_per_second, eta_seconds, at."""
    seconds: float | None
    """How long it took, or has been at work."""
    reason: str | None
    """Why it failed, or what happened to its last pod."""


@dataclass(frozen=True)
class Status:
    run: str
    where: str
    stages: Sequence[Line]
    explained: str | None
    """What `qatune explain` says of the run."""
    notes: Sequence[str]
    """What could not be read."""

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def from_cluster(facts: Facts, store: Store | None, notes: Sequence[str] = ()) -> Status:
    """Describe a run by its Jobs; `store` adds how far the stages at work are."""
    beats, failed = _progress_of(facts.stages, store, facts.run)
    lines = [
        Line(
            stage=job.stage,
            state=state(facts, job),
            pods=_pods(job),
            progress=beats.get(job.stage),
            seconds=_seconds(job, facts.now),
            reason=_reason(facts, job),
        )
        for job in (*facts.stages, *([facts.sandbox] if facts.sandbox else []))
    ]
    lines += [Line(stage, "gone", None, None, None, None) for stage in facts.missing]
    lines.sort(key=lambda line: RELEASED.index(line.stage))
    where = f"namespace {facts.namespace}"
    others = [f"release {name} works on this run, too" for name in facts.others]
    return Status(facts.run, where, lines, diagnosis.explain(facts), [*notes, *failed, *others])


def from_store(store: Store, run: str, why: str) -> Status:
    """Describe a run by its manifests and heartbeats; raise MissingInputError for none."""
    recipe = artifacts.bound_recipe(store, run)
    stages = [stage for stage in STAGES if stage != "train" or recipe.generate.adapter == "train"]
    lines = []
    for stage in stages:
        found = manifests.load(store, run, stage)
        beat = None if found else _progress(store, run, stage, _shards(store, run, stage))
        seen = "complete" if found else "begun" if beat else "not begun"
        seconds = sum(found[0].seconds.values()) if found else None
        lines.append(Line(stage, seen, None, beat, seconds, None))
    return Status(run, store.uri, lines, None, [f"{why}; this is what the store says"])


def state(facts: Facts, job: StageJob) -> str:
    """Name the state of a stage in a few words."""
    if job.complete or job.failure:
        return "complete" if job.complete else "failed"
    if job.unreleased:
        return f"waiting for {job.after}" if job.after else "waiting for the coordinator"
    if job.suspended:
        return f"queued in {job.queue}" if job.queue else "suspended"
    pods = facts.pods_of(job)
    if any(pod.running for pod in pods):
        return "running"
    return "pending" if any(not pod.exit for pod in pods) else "starting"


def _pods(job: StageJob) -> str:
    if job.sharded:
        failed = f", {job.failed} failed" if job.failed else ""
        return f"{job.succeeded:,} of {job.completions:,} done, {job.active:,} active{failed}"
    parts = {"active": job.active, "succeeded": job.succeeded, "failed": job.failed}
    return ", ".join(f"{count} {what}" for what, count in parts.items() if count) or "none"


def _seconds(job: StageJob, now: datetime) -> float | None:
    if job.started is None or job.suspended:
        return None
    ended = job.complete or job.failure
    return ((ended.at if ended else now) - job.started).total_seconds()


def _reason(facts: Facts, job: StageJob) -> str | None:
    if job.failure:
        return ends.failed(facts, job)
    return None if job.complete or job.suspended else ends.interruption(facts, job)


def _progress_of(
    stages: Sequence[StageJob], store: Store | None, run: str
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Read the heartbeats of the stages at work, and say why that is not possible."""
    if store is None:
        return {}, []
    beats: dict[str, Mapping[str, Any]] = {}
    for job in stages:
        if job.complete or job.started is None:
            continue
        try:
            beat = _progress(store, run, job.stage, job.completions if job.sharded else 1)
        except QatuneError as error:
            return beats, [f"no progress: {error}"]
        # An earlier attempt's last one tells nothing of this one.
        if beat and datetime.fromisoformat(beat["at"]) >= job.started:
            beats[job.stage] = beat
    return beats, []


def _progress(store: Store, run: str, stage: str, of: int) -> Mapping[str, Any] | None:
    if of > 1:
        return shards.progress(store, run, of)
    return heartbeat(store, f"runs/{run}/{stage}/progress.json")


def _shards(store: Store, run: str, stage: str) -> int:
    division = shards.load_division(store, run) if stage == "generate" else None
    return division.shards if division else 1


def show(status: Status) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{status.run} in {status.where}", title_justify="left")
    for name in ("stage", "state", "pods", "progress", "time"):
        table.add_column(name, overflow="fold")
    for line in status.stages:
        shown = (line.state, line.pods or "", progress_text(line.progress), _time(line.seconds))
        table.add_row(line.stage, *map(escape, shown))
    console.print(table)
    said = [status.explained, *(line.reason for line in status.stages), *status.notes]
    for sentence in dict.fromkeys(filter(None, said)):
        console.print(escape(sentence), soft_wrap=True)


def progress_text(beat: Mapping[str, Any] | None) -> str:
    """Write a heartbeat as `120/974 rows, 3.1 a second, 4m 35s left`."""
    if not beat:
        return ""
    total = "?" if beat["total"] is None else f"{beat['total']:,}"
    text = f"{beat['done']:,}/{total} {beat['unit']}"
    if beat["rate_per_second"]:
        text += f", {_rate(beat['rate_per_second'])} a second"
    if beat["eta_seconds"]:
        text += f", {_time(beat['eta_seconds'])} left"
    age = (datetime.now(UTC) - datetime.fromisoformat(beat["at"])).total_seconds()
    return f"{text} ({_time(age)} ago)" if age > _STALE_SECONDS else text


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"  # noqa: PLR2004


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
