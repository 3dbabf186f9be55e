"""Measure the answers of base and adapter, tell whether one is better, and write the page of it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from qatune import log, scratch, tracking
from qatune.data.records import AnsweredRow, ExecutedRow
from qatune.errors import MissingInputError
from qatune.evaluation import rows as measured_rows
from qatune.evaluation.comparing import metrics
from qatune.evaluation.metrics import Metrics
from qatune.evaluation.repeats import Repeats
from qatune.execution.stage import execute
from qatune.report import inputs
from qatune.report.inputs import Inputs
from qatune.report.page import render
from qatune.store.artifacts import StageRun
from qatune.store.questions import training_rows

METRICS = "metrics.json"


def run(stage: StageRun, sandbox: str = "bubblewrap") -> None:
    """Write measures, metrics and report; raise MissingInputError for answers that are damaged.

    `sandbox` is where answers are run, if the recipe names a column of tests.
    """
    with stage.timed("loading"):
        found = inputs.load(stage.store, stage.run, stage.recipe)
        generate = found.stages["generate"]
        answered, _ = inputs.rows(stage.store, generate)
        stage.used([*found.files, *generate.outputs_like(prefix="parts/")])
    executed = execute(stage, answered, sandbox)
    with scratch.folder() as folder, stage.timed("working"):
        repeats = _repeats(stage, found, answered, folder)
        rows = _measured(stage, answered, repeats, executed)
        stage.create(inputs.ROWS, _written(rows, folder))
        measured = metrics(
            rows,
            len(found.failed),
            held_out=not stage.recipe.generate.input,
            has_adapter=found.has_adapter,
        )
        result = _settled(stage, measured)
        stage.create("report.html", render(found, result.model_dump(), rows))
    _count(stage, result)
    _track(stage, found, result)
    stage.finish()
    log.get().info("evaluated", verdict=result.verdict.sentence, rows=result.rows)


def _repeats(
    stage: StageRun, found: Inputs, answered: Sequence[AnsweredRow], folder: Path
) -> Repeats | None:
    """Look for what the training rows hold of the answers; None if none of them was learned."""
    preprocess = found.stages.get("preprocess")
    if preprocess is None or "train" not in found.stages:
        return None
    stage.used(preprocess.outputs_like(".parquet", prefix="train-"))
    repeats = Repeats(
        [f"{row.question}\n{row.expected or ''}" for row in answered],
        (text for row in answered for text in row.texts),
    )
    total = int(preprocess.counters.get("rows_train") or 0)
    with stage.progress("comparing with training rows", total, "rows") as bar:
        for name, question, answer in training_rows(stage.store, preprocess, folder):
            repeats.see(name, f"{question}\n{answer}")
            bar.advance(1)
    return repeats


def _measured(
    stage: StageRun,
    answered: Sequence[AnsweredRow],
    repeats: Repeats | None,
    executed: Mapping[str, ExecutedRow] | None,
) -> pa.Table:
    with stage.progress("measuring", len(answered), "rows") as bar:
        return measured_rows.measured(answered, repeats, executed, advance=bar.advance)


def _written(rows: pa.Table, folder: Path) -> Path:
    path = folder / inputs.ROWS
    parquet.write_table(rows, path, compression="zstd")
    return path


def _settled(stage: StageRun, ours: Metrics) -> Metrics:
    """Write the metrics unless an earlier start has, and return what counts.

    Processors differ in the last digit of a sum, so a start elsewhere goes on from what is there.
    Raises MissingInputError if that is not of these answers.
    """
    stage.settle(METRICS, (ours.model_dump_json(indent=1) + "\n").encode())
    try:
        theirs = Metrics.model_validate_json(stage.adopt(METRICS))
    except ValueError:
        theirs = None
    if theirs is None or not _alike(ours.model_dump(), theirs.model_dump()):
        raise MissingInputError(
            f"{stage.store.uri}/{stage.key(METRICS)}: not the measures of these answers; delete it "
            "and run the same command again"
        )
    return theirs


def _alike(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_alike(ours[key], theirs[key]) for key in ours)
    return bool(ours == theirs)


def _track(stage: StageRun, found: Inputs, result: Metrics) -> None:
    """Send the measures to where training sent its curves, if it did."""
    if "train" in found.stages and stage.recipe.train.report_to:
        rows, measures = found.digests["preprocess"], result.model_dump()
        for text in tracking.report_metrics(stage.recipe, stage.run, rows, measures):
            stage.note(text)


def _count(stage: StageRun, result: Metrics) -> None:
    stage.counters |= {"rows": result.rows, "errors": result.errors}
    stage.counters["verdict"] = result.verdict.outcome
    if loss := result.measures.get("loss_per_token"):
        stage.counters["base_loss_per_token"] = loss.base
        if loss.adapter is not None:
            stage.counters["adapter_loss_per_token"] = loss.adapter
    for warning in result.warnings:
        log.get().warning(warning)
