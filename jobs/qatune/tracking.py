"""The curves and measures of a run, in MLflow and Weights & Biases while they come.

transformers' own callbacks do not fit: they send from within a step, let a service that is down end
the training, and write the steps after a checkpoint twice. Here no step waits: a thread sends,
tries again, and what never arrives is a note. The store has all of it anyway.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from threading import Condition, Thread
from typing import Any, Protocol

from qatune import log, recipe
from qatune.config import Recipe
from qatune.errors import UnavailableError, one_line

PATIENCE_SECONDS = 60.0
"""So long the end of a stage waits for what is still to be sent."""
_STOPPED_SECONDS = 5.0
"""And so long one that was stopped, whose time is counted."""
_PAUSE_SECONDS = 30.0
_STREAMED = ("loss", "learning_rate", "grad_norm", "epoch", "heldout_loss")
_PROJECT = "qatune"
_AT_ONCE = 100
"""MLflow takes so many parameters a request, and ten times as many figures."""

Line = Mapping[str, Any]
"""A line of metrics.jsonl."""
Send = Callable[[Sequence[Line]], None]


class Service(Protocol):
    """A run in a service; it leaves out what it has already."""

    def step(self, lines: Sequence[Line]) -> None: ...
    def final(self, measures: Mapping[str, float]) -> None: ...
    def close(self, *, complete: bool) -> None: ...


@contextmanager
def streaming(
    ours: Recipe, run: str, rows: str, earlier: Sequence[Line], note: Callable[[str], None]
) -> Iterator[Send]:
    """Inside, send lines of the journal as they come; `note` hears of what did not arrive.

    `rows` is the SHA-256 of preprocess' manifest: with recipe and name it says which run this is.
    `earlier` is what the journal held at the start, which an earlier start has sent.
    """
    streams = [_Stream(name, ours, run, rows, earlier) for name in ours.train.report_to]

    def send(lines: Sequence[Line]) -> None:
        for stream in streams:
            stream.add(lambda service: service.step(lines))

    if earlier:
        send(earlier)
    try:
        yield send
    except Exception:
        _end(streams, complete=False, seconds=_STOPPED_SECONDS)
        raise
    for text in _end(streams, complete=True, seconds=PATIENCE_SECONDS):
        note(text)


def report_metrics(ours: Recipe, run: str, rows: str, metrics: Mapping[str, Any]) -> list[str]:
    """Add the final measures of metrics.json to the run that `streaming` made.

    Returns a sentence for each service that did not take them.
    """
    measures = {
        f"{variant}/{key}": float(value)
        for key, measure in metrics["measures"].items()
        for variant in ("base", "adapter", "difference")
        if (value := measure.get(variant)) is not None
    }
    streams = [_Stream(name, ours, run, rows, ()) for name in ours.train.report_to]
    for stream in streams:
        stream.add(lambda service: service.final(measures))
    return _end(streams, complete=True, seconds=PATIENCE_SECONDS)


def _end(streams: Sequence["_Stream"], *, complete: bool, seconds: float) -> list[str]:
    for stream in streams:
        stream.end(complete=complete)
    until = time.monotonic() + seconds
    found = [stream.missing(max(until - time.monotonic(), 0)) for stream in streams]
    return [text for text in found if text]


class _Stream:
    """Sends to one service, in a thread of its own."""

    def __init__(
        self, name: str, ours: Recipe, run: str, rows: str, earlier: Sequence[Line]
    ) -> None:
        digest = hashlib.sha256(f"{run} {recipe.digest(ours)} {rows}".encode()).hexdigest()
        step = max((line["step"] for line in earlier), default=-1)
        self._name = name
        self._open: Callable[[], Service] = partial(_SERVICES[name], ours, run, digest[:32], step)
        self._waiting: list[Callable[[Service], None]] = []
        self._complete: bool | None = None
        self._failure: str | None = None
        self._warned = False
        self._changed = Condition()
        logged_alike = copy_context().run
        self._thread = Thread(target=logged_alike, args=(self._work,), name=name, daemon=True)
        self._thread.start()

    def add(self, task: Callable[[Service], None]) -> None:
        with self._changed:
            self._waiting.append(task)
            self._changed.notify_all()

    def end(self, *, complete: bool) -> None:
        """Let it end once all is sent, or a last try has failed."""
        with self._changed:
            self._complete = complete
            self._changed.notify_all()

    def missing(self, seconds: float) -> str | None:
        """Wait so long for the end; say what is missing, if anything is."""
        self._thread.join(seconds)
        reason = f"no answer for {seconds:.0f} s" if self._thread.is_alive() else self._failure
        if reason is None:
            return None
        return (
            f"train.report_to: {self._name} did not take all figures ({reason}): the run's own "
            "metrics.jsonl and metrics.json have them"
        )

    def _work(self) -> None:
        service: Service | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._complete is not None)
                ending = self._complete is not None
            try:
                service = service or self._open()
                self._send(service)
                if self._complete is not None:
                    service.close(complete=self._complete)
                    return
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the training
                self._bear(error)
                if ending:
                    return

    def _send(self, service: Service) -> None:
        while self._waiting:
            self._waiting[0](service)
            with self._changed:
                del self._waiting[0]
        self._failure = None

    def _bear(self, error: Exception) -> None:
        self._failure = one_line(str(error))[:200] or type(error).__name__
        if not self._warned:
            log.get().warning(
                f"train.report_to: {self._name} cannot be reached: trying again, training goes on",
                reason=self._failure,
            )
        self._warned = True
        with self._changed:
            self._changed.wait_for(lambda: self._complete is not None, timeout=_PAUSE_SECONDS)


def _figures(line: Line) -> dict[str, float]:
    return {name: line[name] for name in _STREAMED if line.get(name) is not None}


class _MLflow:
    """A run of MLflow, found again by a tag."""

    def __init__(self, ours: Recipe, run: str, identity: str, _step: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        found = self._client.search_runs([experiment], f"tags.`qatune.run` = '{identity}'")
        self._run = (
            found[0].info.run_id if found else self._created(experiment, ours, run, identity)
        )
        self._client.update_run(self._run, status="RUNNING")
        self._last = dict.fromkeys(_STREAMED, -1)
        for name in found[0].data.metrics.keys() & self._last.keys() if found else ():
            history = self._client.get_metric_history(self._run, name)
            self._last[name] = max(point.step for point in history)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        experiment: str = found.experiment_id if found else self._client.create_experiment(name)
        return experiment

    def _created(self, experiment: str, ours: Recipe, run: str, identity: str) -> str:
        from mlflow.entities import Param

        tags = {"qatune.run": identity}
        made: str = self._client.create_run(experiment, run_name=run, tags=tags).info.run_id
        parameters = [
            Param(name, value if isinstance(value, str) else json.dumps(value))
            for name, value in recipe.leaves(ours.model_dump(mode="json"))
        ]
        for first in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(made, params=parameters[first : first + _AT_ONCE])
        return made

    def step(self, lines: Sequence[Line]) -> None:
        new = [
            (name, value, line["step"])
            for line in lines
            for name, value in _figures(line).items()
            if line["step"] > self._last[name]
        ]
        for first in range(0, len(new), _AT_ONCE):
            part = new[first : first + _AT_ONCE]
            self._log(part)
            self._last |= {name: step for name, _, step in part}

    def final(self, measures: Mapping[str, float]) -> None:
        self._log([(name, value, 0) for name, value in measures.items()])

    def _log(self, figures: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run, metrics=[Metric(name, value, now, step) for name, value, step in figures]
        )

    def close(self, *, complete: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if complete else "KILLED")


class _Wandb:
    """A run of Weights & Biases, found again by its id."""

    def __init__(self, ours: Recipe, run: str, identity: str, step: int) -> None:
        """`step` is the last that an earlier start has sent: offline nothing else knows it."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise UnavailableError("WANDB_API_KEY is not set")  # else it may ask the terminal
        self._teardown = wandb.teardown
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=identity,
            name=run,
            resume="allow",
            config=ours.model_dump(mode="json"),
            # Nothing but figures leaves: no output, code, host or state of the machine.
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._next = step + 1 if self._run.offline else self._run.starting_step

    def step(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if line["step"] >= self._next:
                self._run.log(_figures(line), step=line["step"])

    def final(self, measures: Mapping[str, float]) -> None:
        self._run.summary.update(measures)

    def close(self, *, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)
        self._teardown()  # returns when its own process has written everything


_SERVICES: dict[str, Callable[[Recipe, str, str, int], Service]] = {
    "mlflow": _MLflow,
    "wandb": _Wandb,
}
