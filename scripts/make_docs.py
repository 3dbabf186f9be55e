"""Write docs/recipe.md and docs/values.md from the models, or check that they are up to date.

Usage: python scripts/make_docs.py [--check]
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from qatune.config import Recipe
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


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _kind(schema: dict[str, object]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])  # type: ignore[attr-defined]
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])  # type: ignore[attr-defined]
    names = {"string": "text", "integer": "whole number", "null": "nothing", "array": "list"}
    return names.get(str(schema["type"]), str(schema["type"]))


def pages() -> dict[Path, str]:
    pods = [*tables(Stage, "stages.<stage>"), "\n`stages.coordinator` has the same, without GPU.\n"]
    return {
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
