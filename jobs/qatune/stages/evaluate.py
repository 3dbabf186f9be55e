"""Measure the answers of base and adapter, tell whether one is better, and write the page of it."""

import io
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from qatune import log, scratch, tracking
from qatune.data.records import ExecutedRow
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


def run(stage: StageRun, sandbox: str = "bubblewrap") -> None:
    """Write measures, metrics and report; raise MissingInputError for answers that are damaged.

    `sandbox` is where answers are run, if the recipe names a column of tests.
    """
    with stage.timed("loading"):
        found = inputs.load(stage.store, stage.run, stage.recipe)
        stage.used(found.files)
    executed = execute(stage, found.answered, sandbox)
    with stage.timed("working"):
        with scratch.folder() as folder:
            repeats = _repeats(stage, found, folder)
        rows = _settled_rows(stage, _measured(stage, found, repeats, executed))
        result = _settled_metrics(
            stage,
            metrics(
                rows,
                len(found.failed),
                held_out=not stage.recipe.generate.input,
                has_adapter=found.has_adapter,
            ),
        )
        page = render(found, result.model_dump(), rows)
    _settled(stage, "report.html", page)
    _count(stage, result)
    _track(stage, found, result)
    stage.finish()
    log.get().info("evaluated", verdict=result.verdict.sentence, rows=result.rows)


def _repeats(stage: StageRun, found: Inputs, folder: Path) -> Repeats | None:
    """Look for what the training rows hold of the answers; None where there are no such rows."""
    preprocess = found.stages.get("preprocess")
    if preprocess is None or not found.has_adapter:
        return None
    repeats = Repeats(
        [f"{row.question}\n{row.expected or ''}" for row in found.answered],
        (text for row in found.answered for text in row.texts),
    )
    total = int(preprocess.counters.get("rows_train") or 0)
    with stage.progress("comparing with training rows", total, "rows") as bar:
        for name, question, answer in training_rows(stage.store, preprocess, folder):
            repeats.see(name, f"{question}\n{answer}")
            bar.advance(1)
    return repeats


def _measured(
    stage: StageRun,
    found: Inputs,
    repeats: Repeats | None,
    executed: Mapping[str, ExecutedRow] | None,
) -> pa.Table:
    with stage.progress("measuring", len(found.answered), "rows") as bar:
        return measured_rows.measured(found.answered, repeats, executed, advance=bar.advance)


def _settled_rows(stage: StageRun, rows: pa.Table) -> pa.Table:
    file = io.BytesIO()
    parquet.write_table(rows, file, compression="zstd")
    settled = _settled(stage, inputs.ROWS, file.getvalue())
    try:
        return parquet.read_table(io.BytesIO(settled), schema=rows.schema)
    except (pa.ArrowException, OSError):
        raise _foreign(stage, inputs.ROWS) from None


def _settled_metrics(stage: StageRun, result: Metrics) -> Metrics:
    settled = _settled(stage, "metrics.json", (result.model_dump_json(indent=1) + "\n").encode())
    try:
        return Metrics.model_validate_json(settled)
    except ValueError:
        raise _foreign(stage, "metrics.json") from None


def _settled(stage: StageRun, name: str, data: bytes) -> bytes:
    """Write an output unless an earlier start has, and return what counts.

    Processors differ in the last digit of a sum: a start elsewhere goes on from what is there.
    """
    stage.settle(name, data)
    return stage.adopt(name)


def _foreign(stage: StageRun, name: str) -> MissingInputError:
    return MissingInputError(
        f"{stage.store.uri}/{stage.key(name)}: not what qatune wrote; delete it and run the same "
        "command again"
    )


def _track(stage: StageRun, found: Inputs, result: Metrics) -> None:
    """Send the measures to where training sent its curves, if it did."""
    if "train" in found.stages and stage.recipe.train.report_to:
        rows, measures = found.digests["preprocess"], result.model_dump()
        for text in tracking.report_metrics(stage.recipe, stage.run, rows, measures):
            stage.note(text)


def _count(stage: StageRun, result: Metrics) -> None:
    stage.counters |= {"rows": result.rows, "errors": result.errors}
    if loss := result.measures.get("loss_per_token"):
        stage.counters |= {"base_loss_per_token": loss.base, "verdict": result.verdict.outcome}
        if loss.adapter is not None:
            stage.counters["adapter_loss_per_token"] = loss.adapter
    for warning in result.warnings:
        log.get().warning(warning)
