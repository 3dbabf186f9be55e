"""Write docs/recipe.md from the recipe's models, or check that it is up to date.

Usage: python scripts/make_docs.py [--check]
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from qatune.config import Recipe

TARGET = Path(__file__).parent.parent / "docs" / "recipe.md"
HEAD = """# The recipe

Every field of a recipe, made from `jobs/qatune/config.py` by `make docs`. A recipe is a YAML file
with these fields under the key `recipe:`; `--set train.learning_rate=1e-4` changes one of them.
"""


def tables(section: type[BaseModel], name: str) -> Iterator[str]:
    """Yield a table for a section and for each section in it."""
    rows = []
    nested = []
    for field_name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            nested.append((annotation, f"{name}.{field_name}".strip(".")))
        else:
            rows.append(_row(section, field_name))
    if rows:
        intro = " ".join((section.__doc__ or "").split())
        yield f"\n## {name}\n\n{intro}\n\n| field | type | default | |\n| --- | --- | --- | --- |\n"
        yield from rows
    for annotation, path in nested:
        yield from tables(annotation, path)


def _row(section: type[BaseModel], name: str) -> str:
    field = section.model_fields[name]
    default = "required" if field.default is PydanticUndefined else f"`{_literal(field.default)}`"
    kind = _kind(section.model_json_schema()["properties"][name])
    text = " ".join((field.description or "").split())
    return f"| `{name}` | {kind} | {default} | {text} |\n"


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


def main() -> None:
    text = HEAD + "".join(tables(Recipe, ""))
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit("docs/recipe.md is out of date: run make docs")


if __name__ == "__main__":
    main()
