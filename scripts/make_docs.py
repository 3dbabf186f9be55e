"""Write recipe.md, values.md, metrics.md and metrics.schema.json in docs/ from the models.

With --check say instead whether they are up to date.

Usage: python scripts/make_docs.py [--check]
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from qatune.config import Recipe
from qatune.evaluation.measures import ACROSS_RUNS, OF_A_RUN, Measure
from qatune.evaluation.metrics import Metrics
from qatune.evaluation.rows import ROW_FIELDS, VARIANT_FIELDS
from qatune.evaluation.statistics import METHODS
from qatune.values import Pod, Stage, Values

DOCS = Path(__file__).parent.parent / "docs"
RECIPE = """# The recipe

Every field of a recipe, made from `jobs/qatune/config.py` by `make generated`. A recipe is a YAML
file with these fields under the key `recipe:`; `--set train.learning_rate=1e-4` changes one of
them. What may stand beside that key is in [values.md](values.md).
"""
VALUES = """# The chart's values

What a values file says besides the [recipe](recipe.md), made from `jobs/qatune/values.py` by
`make generated`. `helm install` takes it with `-f`, `qatune run` takes the same file. What each
stage has by default is in [values.yaml](../helm/qatune/values.yaml).
"""
METRICS = """# What evaluate writes

`evaluate/metrics.json` and `evaluate/rows.parquet` are for other programs to read; the report
shows the same. Made from `jobs/qatune/evaluation/` by `make generated`. The JSON Schema of
metrics.json is [metrics.schema.json](metrics.schema.json); `format` rises when a field changes its
meaning.

## How two models are compared

Both answered the same rows, so rows are compared in pairs. The verdict is that of the leading
measure, the first in the table that has values; the other measures are named beside it. Rows are
taken to be independent of each other: several rows about the same thing make intervals too narrow.

"""
SEVERAL = """
## Several runs

`qatune report RUN RUN ...` compares each run's adapter (its base, if it has none) with each
other's, on the rows that all of them answered, by the same statistics; all pairs together are one
family. Losses per token of models that divide text into other tokens cannot be compared, so bits
per byte lead. What is refused, with exit code 66:

- `runs 'a' and 'b' answered different rows`: compare runs of the same `data` and `data.split`, or
  of the same `generate.input`.
- `metrics.json: written by another version of qatune`: measure the answers again. Delete the
  objects of that run's `evaluate`, and run the stage.
- `metrics.json: not the measures of these answers`: said by evaluate, which found what another
  start had made of other answers. Delete it, and run the stage again.
"""


def tables(section: type[BaseModel], name: str) -> Iterator[str]:
    """Yield a table for a section and for each section in it."""
    rows = []
    nested = []
    for field_name, field in section.model_fields.items():
        annotation = field.annotation
        shown = field.alias or field_name
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            rows.append(_row(section, field_name, shown))
        elif annotation not in {Recipe, Pod, Stage}:
            nested.append((annotation, f"{name}.{shown}".strip(".")))
    if rows:
        intro = " ".join((section.__doc__ or "").split())
        yield f"\n## {name}\n\n{intro}\n\n| field | type | default | |\n| --- | --- | --- | --- |\n"
        yield from rows
    for annotation, path in nested:
        yield from tables(annotation, path)


def _row(section: type[BaseModel], name: str, shown: str) -> str:
    field = section.model_fields[name]
    value = field.get_default(call_default_factory=True)
    default = "required" if value is PydanticUndefined else f"`{_literal(value)}`"
    kind = _kind(section.model_json_schema()["properties"][shown])
    text = " ".join((field.description or "").split())
    return f"| `{shown}` | {kind} | {default} | {text} |\n"


def measures() -> Iterator[str]:
    """Yield the methods, and a line for each measure."""
    yield from (f"- **{name}**: {text}.\n" for name, text in METHODS.items())
    yield "\n## Measures\n\n| key | | better | |\n| --- | --- | --- | --- |\n"
    for measure in (*OF_A_RUN, ACROSS_RUNS[0]):
        yield _measure(measure)


def _measure(measure: Measure) -> str:
    better = measure.better or "neither"
    return f"| `{measure.key}` | {measure.label} | {better} | {measure.meaning} |\n"


def parts(schema: dict[str, Any]) -> Iterator[str]:
    """Yield a table for the whole of metrics.json, and for each kind of part."""
    for name, part in {"metrics.json": schema, **schema["$defs"]}.items():
        yield f"\n## {name}\n\n{part.get('description', '')}\n\n"
        yield "| field | type | |\n| --- | --- | --- |\n"
        for field, found in part["properties"].items():
            text = " ".join(found.get("description", "").split())
            yield f"| `{field}` | {_kind(found)} | {text} |\n"


def columns() -> Iterator[str]:
    yield "\n## rows.parquet\n\nA line for each answered row, in the order of the input.\n"
    for title, fields in (
        ("", ROW_FIELDS),
        (
            "\nAnd of each model, after `base_` and `adapter_` (null without an adapter):\n",
            VARIANT_FIELDS,
        ),
    ):
        yield title + "\n| column | type | |\n| --- | --- | --- |\n"
        yield from (f"| `{name}` | {kind} | {text} |\n" for name, kind, text in fields)


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _kind(schema: dict[str, object]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])  # type: ignore[attr-defined]
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return str(schema["$ref"]).split("/")[-1]
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"object of {_kind(values)}"
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])  # type: ignore[attr-defined]
    names = {"string": "text", "integer": "whole number", "null": "nothing", "array": "list"}
    return names.get(str(schema["type"]), str(schema["type"]))


def pages() -> dict[Path, str]:
    pods = [*tables(Stage, "stages.<stage>"), "\n`stages.coordinator` has the same, without GPU.\n"]
    schema = Metrics.model_json_schema()
    return {
        DOCS / "metrics.md": METRICS + "".join([*measures(), SEVERAL, *parts(schema), *columns()]),
        DOCS / "metrics.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
        DOCS / "recipe.md": RECIPE + "".join(tables(Recipe, "")),
        DOCS / "values.md": VALUES + "".join([*tables(Values, ""), *pods]),
    }


def main() -> None:
    for path, text in pages().items():
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"docs/{path.name} is out of date: run make generated")


if __name__ == "__main__":
    main()
