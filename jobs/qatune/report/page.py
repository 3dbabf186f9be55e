"""The report: one HTML file that needs nothing but a browser."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from qatune.report import charts, compared, drawing, embedding, figures, html, inputs, words
from qatune.report.inputs import Inputs
from qatune.store import artifacts
from qatune.store.manifests import SECONDS
from qatune.store.objects import Store

_APART = {"finished": "both answers finished", "truncated": "at least one cut off"}
_SCRIPTS = ("diff.js", "filters.js", "rows.js", "print.js")


def write_report(store: Store, run: str, path: Path) -> None:
    """Write the page of a finished run anew; raise MissingInputError if it is not finished."""
    metrics = inputs.metrics(store, run)
    found = inputs.load(store, run, artifacts.bound_recipe(store, run))
    html.write(path, render(found, metrics, inputs.measured(store, run)))


def render(found: Inputs, metrics: dict[str, Any], rows: pa.Table) -> bytes:
    """Build the page from metrics.json and rows.parquet: equal inputs give equal bytes."""
    data = embedding.columns(rows, found.failed)
    return html.page(
        "page.html",
        _SCRIPTS,
        **_measured(metrics),
        **_made(found),
        has_expected="expected" in data,
        data=html.packed(data),
    )


def _measured(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "metrics": metrics,
        "verdict": metrics["verdict"],
        "mark": compared.MARKS[metrics["verdict"]["outcome"]],
        "table": compared.lines(metrics["measures"]),
        "apart": _apart(metrics),
        "corpus": compared.corpus(metrics["corpus"]),
        "outcomes": _outcomes(metrics["execution"]),
        "finish": words.finish(metrics["finish"]),
    }


def _made(found: Inputs) -> dict[str, Any]:
    checks = found.checks or {}
    return {
        "run": found.run,
        "recipe": found.recipe,
        "recipe_text": json.dumps(
            found.recipe.model_dump(mode="json"), indent=2, ensure_ascii=False
        ),
        "has_adapter": found.has_adapter,
        "checks": checks,
        "sample": words.sample(checks.get("sample")),
        "charts": [(title, html.markup(svg), said) for title, svg, said in _charts(found)],
        "rejected": _rejected(found),
        "stages": found.stages,
        "certificates": found.stages["generate"].certificates,
        "digests": found.digests,
        "spent_on": figures.SPENT,
        "spent": figures.spent,
        "kinds": [
            kind for kind in SECONDS if any(of.seconds.get(kind) for of in found.stages.values())
        ],
        "bars": drawing.bars({name: of.seconds for name, of in found.stages.items()}, SECONDS),
        "count": figures.count,
    }


def _apart(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Lay the rows whose answers both ended beside the others; None where all are of one kind."""
    groups = {name: of for name, of in (metrics["apart"] or {}).items() if of["rows"]}
    if len(groups) < len(_APART):
        return None
    found = [
        {line.text.label: line for line in compared.lines(groups[name]["measures"])}
        for name in _APART
    ]
    labels = dict.fromkeys(label for of in found for label in of)
    return {
        "groups": [(said, groups[name]["rows"]) for name, said in _APART.items()],
        "lines": [(label, [of.get(label) for of in found]) for label in labels],
    }


def _outcomes(execution: dict[str, Any] | None) -> list[tuple[str, Any, Any]]:
    """Give each outcome of running the answers with the numbers of base and adapter."""
    if execution is None:
        return []
    base, adapter = execution["base"], execution["adapter"]
    names = dict.fromkeys((*base, *(adapter or ())))
    return [
        (
            name.replace("_", " "),
            base.get(name, 0),
            None if adapter is None else adapter.get(name, 0),
        )
        for name in names
    ]


def _charts(found: Inputs) -> Iterator[tuple[str, str, str]]:
    steps = found.steps
    if any("loss" in step for step in steps):
        yield "Loss per token", charts.losses(steps), ""
        yield "Learning rate", charts.learning_rate(steps), ""
    if any("grad_norm" in step for step in steps):
        limit = found.recipe.train.max_grad_norm
        svg = charts.gradient_norm(steps, limit)
        yield "Norm of the gradient", svg, words.not_numbers(steps)
    if found.lengths:
        yield "Lengths of the rows", charts.histogram(found.lengths), figures.lengths(found.lengths)


def _rejected(found: Inputs) -> Sequence[tuple[str, Any]]:
    counters = found.stages["preprocess"].counters if "preprocess" in found.stages else {}
    return [
        (name.removeprefix("rejected_").replace("_", " "), count)
        for name, count in counters.items()
        if name.startswith("rejected_") and count
    ]
