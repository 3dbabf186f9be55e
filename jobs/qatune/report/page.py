"""The report: one HTML file that needs nothing but a browser."""

import base64
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from qatune.data.records import Answer
from qatune.errors import MissingInputError
from qatune.report import charts, figures, inputs
from qatune.report.inputs import Inputs
from qatune.store import artifacts
from qatune.store.objects import Store

# What could end the script element, or a line of it, inside a string of JSON.
_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def write_report(store: Store, run: str, path: Path) -> None:
    """Write the page of a finished run anew; raise MissingInputError if it is not finished."""
    metrics = inputs.metrics(store, run)
    found = inputs.load(store, run, artifacts.bound_recipe(store, run))
    page = render(found, metrics, inputs.measured(store, run))
    try:
        path.write_bytes(page)
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}; choose another --output") from error


def render(found: Inputs, metrics: dict[str, Any], rows: pa.Table) -> bytes:
    """Build the page: equal inputs give equal bytes. `rows` are the measured ones."""
    del rows
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = Path(__file__).with_name("templates").joinpath("page.js").read_text(encoding="utf-8")
    page = environment.get_template("page.html").render(
        run=found.run,
        metrics=metrics,
        has_adapter=found.has_adapter,
        has_losses="loss_per_token" in metrics["measures"],
        table=figures.table(metrics["measures"]),
        charts=[(title, _markup(svg), words) for title, svg, words in _charts(found)],
        rejected=_rejected(found),
        stages=found.stages,
        certificates=found.stages["generate"].certificates,
        digests=found.digests,
        spent_on=figures.SPENT,
        spent=figures.spent,
        count=figures.count,
        recipe=json.dumps(found.recipe.model_dump(mode="json"), indent=2, ensure_ascii=False),
        rows=_markup(embedded(list(_rows(found)))),
        script=_markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page.encode("utf-8", "replace")


def embedded(value: Any) -> str:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_UNSAFE)


def _markup(text: str) -> Any:
    """Mark text as HTML: only for what this package made."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def _charts(found: Inputs) -> Iterator[tuple[str, str, str]]:
    if any("loss" in step for step in found.steps):
        yield "Loss per token", charts.losses(found.steps), ""
        yield "Learning rate", charts.learning_rate(found.steps), ""
    if found.lengths:
        words = figures.lengths(found.lengths)
        yield "Lengths of the rows", charts.histogram(found.lengths), words


def _rejected(found: Inputs) -> list[tuple[str, Any]]:
    counters = found.stages["preprocess"].counters if "preprocess" in found.stages else {}
    return [
        (name.removeprefix("rejected_").replace("_", " "), count)
        for name, count in counters.items()
        if name.startswith("rejected_") and count
    ]


def _rows(found: Inputs) -> Iterator[dict[str, Any]]:
    """Give the rows short names, which make up most of the file."""
    for row in found.answered:
        yield {
            "id": row.id,
            "q": row.question,
            "e": row.expected,
            "b": _answer(row.base),
            "a": None if row.adapter is None else _answer(row.adapter),
        }
    for failed in found.failed:
        yield {"id": failed.id, "q": failed.question, "x": f"{failed.code}: {failed.message}"}


def _answer(answer: Answer) -> dict[str, Any]:
    known = answer.nll is not None and math.isfinite(answer.nll)
    loss = answer.nll if known else None
    return {"t": answer.text, "n": answer.tokens, "f": answer.finish, "l": loss}
