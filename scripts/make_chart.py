"""Write the chart's values.yaml and values.schema.json from the models, or check them.

Usage: python scripts/make_chart.py [--check]
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from qatune.config import Data, Model, Recipe
from qatune.values import Values

CHART = Path(__file__).parent.parent / "helm" / "qatune"
HEAD = """# The chart's defaults, made from jobs/qatune/values.py by `make generated`.
# A run's own values stand in a file of yours: helm install NAME qatune -f mine.yaml
"""
# What Helm's --set makes of a number with a point or an exponent; none may be negative.
NUMBER = {"type": "string", "pattern": r"^[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$"}


def defaults() -> Values:
    """Return what holds where a values file says nothing, around a recipe that is left out."""
    return Values(recipe=Recipe(model=Model(source="-"), data=Data(source="-")))


def schema() -> dict[str, Any]:
    """Return the schema that Helm checks values by: what the models take, and a store."""
    made = _plain(Values.model_json_schema(by_alias=True))
    store = made["$defs"]["Store"]
    uri = store["properties"]["uri"]
    text = uri.pop("anyOf")[0]
    uri.update(text)
    _require(made, made["$defs"], defaults())
    store["required"].append("uri")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _require(part: dict[str, Any], known: dict[str, Any], section: BaseModel) -> None:
    """Require what has a default: only a null takes it away, and templates count on it."""
    part["required"] = []
    for name, field in type(section).model_fields.items():
        value, shown = getattr(section, name), field.alias or name
        if value is not None:
            part["required"].append(shown)
        if isinstance(value, BaseModel) and not isinstance(value, Recipe):
            _require(known[part["properties"][shown]["$ref"].split("/")[-1]], known, value)


def _plain(part: Any) -> Any:
    """Leave titles and defaults out, and let numbers come as text."""
    if isinstance(part, list):
        return [_plain(each) for each in part]
    if not isinstance(part, dict):
        return part
    kept = {
        name: _fields(value) if name in {"properties", "$defs"} else _plain(value)
        for name, value in part.items()
        if name not in {"title", "default"}
    }
    if kept.get("type") != "number":
        return kept
    described = {"description": kept.pop("description")} if "description" in kept else {}
    return described | {"anyOf": [kept, NUMBER]}


def _fields(named: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in named.items()}


def values_yaml() -> str:
    return HEAD + "".join(_lines(defaults(), "", set()))


def _lines(section: BaseModel, indent: str, explained: set[str]) -> Iterator[str]:
    """Yield a section; what the same field of another section has said is not said again."""
    for name, field in type(section).model_fields.items():
        value, shown = getattr(section, name), field.alias or name
        if isinstance(value, BaseModel) and not indent:
            yield "\n"
        text = field.description or ("" if indent else type(value).__doc__)
        if text and text not in explained:
            explained.add(text)
            yield f"{indent}# {' '.join(text.split())}\n"
        if not isinstance(value, BaseModel):
            yield f"{indent}{shown}: {_literal(value)}\n"
        elif isinstance(value, Recipe):
            yield f"{indent}{shown}: {{}}\n"
        else:
            yield f"{indent}{shown}:\n"
            yield from _lines(value, indent + "  ", explained)


def _literal(value: Any) -> str:
    return json.dumps(value, default=_dumped, ensure_ascii=False)


def _dumped(value: Any) -> Any:
    return value.model_dump(by_alias=True, mode="json")


def main() -> None:
    files = {
        CHART / "values.yaml": values_yaml(),
        CHART / "values.schema.json": json.dumps(schema(), indent=1, ensure_ascii=False) + "\n",
    }
    stale = [path for path, text in files.items() if _text(path) != text]
    if "--check" not in sys.argv:
        for path in stale:
            path.write_text(files[path], encoding="utf-8")
    elif stale:
        names = ", ".join(path.name for path in stale)
        sys.exit(f"helm/qatune: {names} out of date: run make generated")


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    main()
