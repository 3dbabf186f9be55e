"""Release each stage's Job when the one before it is complete; stop at the first that failed.

All that is known stands in the Jobs and in the store. So this may be killed between any two
requests, and a second one beside it does no harm.
"""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from qatune import STAGES, log
from qatune.cluster import failures, jobs
from qatune.cluster.client import Cluster, ConflictError, NoSuchObjectError
from qatune.cluster.jobs import StageJob
from qatune.cluster.patience import Patience
from qatune.config import Recipe
from qatune.errors import (
    InterruptedRunError,
    MissingInputError,
    NotAllowedError,
    QatuneError,
    UnavailableError,
)
from qatune.execution import ending
from qatune.store import artifacts, shards
from qatune.store.objects import Store

POLL_SECONDS = 1.0
_CLOSING_SECONDS = 20.0
"""A sandbox that is there ends in less; one that has no pod yet is suspended again."""


class Action(Enum):
    """What to do about the first stage that is not done."""

    WAIT = "wait"
    RELEASE = "release"
    NEXT = "next"
    FAIL = "fail"


def decide(job: StageJob, manifest: bool) -> Action:
    """Decide on a Job whose upstream is done; `manifest` tells whether its own is valid."""
    if job.failure:
        return Action.FAIL
    if job.complete:
        return Action.NEXT if manifest else Action.FAIL
    if job.unreleased or job.set_back:
        return Action.RELEASE
    return Action.WAIT  # at work, queued in Kueue, or suspended again by somebody


def release_patch(job: StageJob, queue: str | None, now: datetime) -> Mapping[str, Any]:
    """Set the Job going, or hand it to Kueue, which unsuspends it: never both in one patch."""
    meta: dict[str, Any] = {
        "resourceVersion": job.version,
        "annotations": {jobs.RELEASED_AT: now.isoformat(timespec="seconds")},
    }
    if queue:
        return {"metadata": meta | {"labels": {jobs.KUEUE_QUEUE: queue}}}
    return {"metadata": meta, "spec": {"suspend": False}}


def failure_event(name: str, job: StageJob, sentence: str) -> Mapping[str, Any]:
    """Make the Event on a failed Job. It is the same each time, so writing it again is no news."""
    ended = job.failure or job.complete
    assert ended is not None
    at = ended.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": job.namespace},
        "type": "Warning",
        "reason": "StageFailed",
        "message": sentence[:1024],  # the API takes no more
        "involvedObject": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job.name,
            "namespace": job.namespace,
            "uid": job.uid,
        },
        "source": {"component": "qatune-coordinator"},
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


class StageFailedError(MissingInputError):
    """A stage failed: the ones after it lack their input."""


@dataclass
class Coordinator:
    """Looks after one run. `names` are its stages' Jobs, in order."""

    cluster: Cluster
    store: Store
    run: str
    recipe: Recipe
    names: Mapping[str, str]
    event_name: str
    queue: str | None = None
    sandbox: str | None = None
    """URL of the sandbox. Its Job is no stage's: it runs beside evaluate, and ends after it."""

    def __post_init__(self) -> None:
        self._ahead = [stage for stage in self.names if stage != jobs.SANDBOX]
        self._told = False

    def coordinate(self) -> None:
        """Return when all stages are done; raise StageFailedError when one has failed."""
        patience = Patience()
        with _stopped_by_sigterm():
            while self._ahead:
                try:
                    self.step()
                except ConflictError:
                    continue
                except (UnavailableError, NoSuchObjectError, NotAllowedError) as error:
                    patience.bear(error)
                    continue
                patience.over()
        log.get().info("all stages are complete", run=self.run)

    def step(self) -> None:
        """Look at the first stage that is not done, and do what it needs."""
        stage = self._ahead[0]
        try:
            job = self._read(stage)
        except NoSuchObjectError:
            if not self._manifest(stage)[0]:
                raise
            self._pass(stage, "stage is complete, its Job is gone")
            return
        manifest, reason = self._manifest(stage) if job.complete else (False, "")
        action = decide(job, manifest)
        if action in {Action.WAIT, Action.RELEASE} and self._needs_sandbox(stage):
            self._open_sandbox()
        match action:
            case Action.WAIT:
                time.sleep(POLL_SECONDS)
            case Action.RELEASE:
                self._release(job)
            case Action.NEXT:
                self._pass(stage, "stage is complete")
            case Action.FAIL:
                self._fail(job, reason or self._what_failed(job))

    def _pass(self, stage: str, said: str) -> None:
        """Go on to the next stage, once nothing of this one is left."""
        if self._needs_sandbox(stage) and not self._close_sandbox():
            time.sleep(POLL_SECONDS)
            return
        log.get().info(said, stage=stage)
        del self._ahead[0]

    def _needs_sandbox(self, stage: str) -> bool:
        return stage == STAGES[-1] and self.sandbox is not None

    def _open_sandbox(self) -> None:
        job = self._read(jobs.SANDBOX)
        if job.unreleased or job.set_back:
            self._release(job)

    def _close_sandbox(self) -> bool:
        """Tell the sandbox to end; True when its Job is over.

        Jobs are waited for until they are complete, and one that is suspended never is: so it is
        set going for that, whoever suspended it. But in Kueue's queue, Kueue alone may do so.
        """
        assert self.sandbox is not None
        try:
            job = self._read(jobs.SANDBOX)
        except NoSuchObjectError:
            return True
        if job.complete or job.failure:
            return True
        if not self._told:
            said = "evaluate is complete; waiting for its sandbox's Job"
            log.get().info(said, job=job.name, suspended=job.suspended, queue=job.queue or "-")
            self._told = True
        if job.unreleased or job.set_back or (job.suspended and not job.queue):
            self._release(job)
        elif not job.suspended:
            ending.end(self.sandbox)
        return False

    def _read(self, stage: str) -> StageJob:
        return jobs.read(self.cluster.job(self.names[stage]))

    def _manifest(self, stage: str) -> tuple[bool, str]:
        """Tell whether a stage's manifest is valid, and if not, what is wrong with it."""
        try:
            valid = artifacts.is_complete(self.store, self.run, stage, self.recipe)
        except MissingInputError as error:
            return False, f"{stage} is complete, but {error}"
        where = f"{self.store.uri}/runs/{self.run}/{stage}/manifest.json"
        return valid, f"{stage} is complete, but {where} is not there: was it deleted?"

    def _release(self, job: StageJob) -> None:
        now = datetime.now(UTC)
        self.cluster.patch_job(job.name, release_patch(job, self.queue, now))
        log.get().info("stage is released", stage=job.stage, job=job.name, queue=self.queue or "-")

    def _what_failed(self, job: StageJob) -> str:
        failed = failures.indexes(job.failed_indexes)
        if job.stage != "generate" or not failed:
            return failures.what_failed(job)
        return f"{failures.what_failed(job)} ({self._missing_rows(job, failed)})"

    def _missing_rows(self, job: StageJob, failed: list[int]) -> str:
        """Name the rows without answers; what fails here must not hide that the stage failed."""
        try:
            return str(
                shards.missing_rows(self.store, self.run, self.recipe, job.completions, failed)
            )
        except QatuneError as error:
            return f"which rows have no answer is not known: {error}"

    def _fail(self, job: StageJob, reason: str) -> None:
        """Say on the later Jobs, in an Event, and by the exit code why the run stands still."""
        sentence = f"{reason}; {failures.way_out(job)}"
        later_jobs = list(self._ahead[1:])
        if self.sandbox:
            self._give_up_sandbox(self.sandbox)
            later_jobs.append(jobs.SANDBOX)
        for stage in later_jobs:
            with suppress(NoSuchObjectError):  # deleted by hand: nothing to say it on
                later = self._read(stage)
                if later.suspended:
                    self.cluster.patch_job(later.name, _blocked_patch(later, sentence))
        self.cluster.apply_event(self.event_name, failure_event(self.event_name, job, sentence))
        raise StageFailedError(sentence)

    def _give_up_sandbox(self, url: str) -> None:
        """Let a sandbox at work end, as nobody will ask it again; suspend one that has no pod."""
        until = time.monotonic() + _CLOSING_SECONDS
        with suppress(NoSuchObjectError):
            job = self._read(jobs.SANDBOX)
            while not (job.suspended or job.complete or job.failure):
                if time.monotonic() > until:
                    self.cluster.patch_job(job.name, {"spec": {"suspend": True}})
                    return
                ending.end(url)
                time.sleep(POLL_SECONDS)
                job = self._read(jobs.SANDBOX)


def _blocked_patch(job: StageJob, sentence: str) -> Mapping[str, Any]:
    meta = {"resourceVersion": job.version, "annotations": {jobs.BLOCKED: sentence}}
    if job.queue:  # out of the queue, in which a sandbox may be waiting
        meta["labels"] = {jobs.KUEUE_QUEUE: jobs.PARKED}
    return {"metadata": meta}


class _Stopped(BaseException):
    """SIGTERM. No handler of errors may take it for one."""


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Stopped:
        raise InterruptedRunError("SIGTERM: nothing is lost") from None
    finally:
        signal.signal(signal.SIGTERM, before)
