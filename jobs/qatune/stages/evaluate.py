"""Measure the answers of base and adapter, and write the page that shows them."""

import json

from qatune import log
from qatune.data import measures
from qatune.execution.stage import execute
from qatune.report import inputs
from qatune.report.page import render
from qatune.store.artifacts import StageRun


def run(stage: StageRun, sandbox: str = "bubblewrap") -> None:
    """Write metrics and report; raise MissingInputError for answers that are damaged.

    `sandbox` is where answers are run, if the recipe names a column of tests.
    """
    with stage.timed("loading"):
        found = inputs.load(stage.store, stage.run, stage.recipe)
        stage.used(found.files)
    execute(stage, found.answered, sandbox)
    total = 2 * len(found.answered)
    with stage.timed("working"), stage.progress("measuring", total, "answers") as bar:
        metrics = measures.metrics(found.answered, len(found.failed), advance=bar.advance)
        page = render(found, metrics)
    stage.create("metrics.json", _encode(metrics))
    stage.create("report.html", page)
    stage.counters |= {"rows": metrics["rows"], "errors": metrics["errors"]}
    for variant in ("base", "adapter"):
        if metrics[variant]:
            stage.counters[f"{variant}_loss_per_token"] = metrics[variant]["loss_per_token"]
    stage.finish()
    log.get().info("evaluated", rows=metrics["rows"], errors=metrics["errors"])


def _encode(metrics: dict[str, object]) -> bytes:
    return (json.dumps(metrics, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
