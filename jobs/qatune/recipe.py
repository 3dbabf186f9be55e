"""Read a recipe, change fields of it, name what is wrong with it, and tell two apart."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from qatune.config import Recipe
from qatune.errors import BadRecipeError, MissingInputError

_OBJECT = re.compile(r"\{\s*\w+:\s")
_PYTHON_TYPE = re.compile(r"a valid (tuple|dictionary or instance of \w+)")


def shipped() -> dict[str, Path]:
    """Name and file of every recipe that comes with the package."""
    folder = Path(str(resources.files("qatune"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe or a file, with `a.b=c` applied on top.

    Raises MissingInputError for no such recipe, BadRecipeError for a wrong one.
    """
    path = shipped().get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise MissingInputError(
            f"recipe {name_or_path!r}: no such file, and not one of {', '.join(shipped())}"
        )
    fields = _recipe_fields(path)
    for override in overrides:
        _set_field(fields, override)
    return validate(fields)


def validate(fields: Mapping[str, Any]) -> Recipe:
    """Build the recipe, or raise BadRecipeError with one line for its first fault."""
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        faults: dict[str, list[ErrorDetails]] = {}
        for fault in error.errors(include_url=False):
            faults.setdefault(".".join(_field(fault["loc"])), []).append(fault)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BadRecipeError(_describe(next(iter(faults.values()))) + more) from None


def canonical(recipe: Recipe) -> bytes:
    """Bytes that are equal exactly when two recipes are."""
    fields = recipe.model_dump(mode="json")
    return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def digest(recipe: Recipe) -> str:
    return hashlib.sha256(canonical(recipe)).hexdigest()


def parse(text: bytes, where: str) -> Recipe:
    """Read what `canonical` wrote. Raises BadRecipeError."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise BadRecipeError(f"{where}: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadRecipeError(f"{where}: not a recipe: an object with fields is expected")
    return validate(fields)


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """Name each field in which two recipes differ: `train.seed: 1, not 2`."""
    left, right = dict(_leaves(ours.model_dump())), dict(_leaves(theirs.model_dump()))
    return [
        f"{name}: {right.get(name)!r}, not {left.get(name)!r}"
        for name in left | right
        if left.get(name) != right.get(name)
    ]


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _recipe_fields(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a safe one
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BadRecipeError(f"{path}: not YAML: {reason}") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(values, dict) or not isinstance(values.get("recipe"), dict):
        raise BadRecipeError(f"{path}: no recipe in it: its fields stand under the key 'recipe:'")
    unknown = [name for name in values if name != "recipe"]
    if unknown:
        raise BadRecipeError(f"{path}: {unknown[0]}: unknown key beside 'recipe:'")
    fields: dict[str, Any] = values["recipe"]
    return fields


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key that is there twice is an error, not an overwriting."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"key {name!r} is there twice", problem_mark=node.start_mark
                )
        fields: dict[Any, Any] = super().construct_mapping(node, deep)
        return fields


def _set_field(fields: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise BadRecipeError(f"--set {override}: write it as field=value, as in train.max_steps=10")
    *parents, last = name.strip().removeprefix("recipe.").split(".")
    for parent in parents:
        below = fields.setdefault(parent, {})
        if not isinstance(below, dict):
            raise BadRecipeError(f"--set {override}: {parent} has no fields below it")
        fields = below
    fields[last] = _value(text, override)


def _value(text: str, override: str) -> Any:
    """Read lists, null and objects as YAML; 007 may be a revision, {question} a template."""
    if not text.startswith("[") and text != "null" and not _OBJECT.match(text):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadRecipeError(f"--set {override}: the value is not YAML") from None


def _describe(faults: Sequence[ErrorDetails]) -> str:
    """Put what is wrong with one field, which may be of several types, into one line."""
    fault = faults[0]
    where = _field(fault["loc"])
    named = ".".join(["recipe", *where])
    if fault["type"] == "extra_forbidden":
        return f"{named}: unknown field{_suggestion(where)}"
    if fault["type"] == "missing":
        return f"{named}: must be given"
    reasons = dict.fromkeys(_reason(each) for each in faults)
    return f"{named}: {' or '.join(reasons)} (it is {_short(fault['input'])})"


def _reason(fault: ErrorDetails) -> str:
    reason = _PYTHON_TYPE.sub(_yaml_type, fault["msg"].removeprefix("Value error, "))
    return reason[0].lower() + reason[1:]


def _yaml_type(found: re.Match[str]) -> str:
    return "a list, as in [q_proj, v_proj]" if found[0] == "a valid tuple" else "an object"


def _field(location: Sequence[int | str]) -> list[str]:
    """Cut off which of a field's types was tried: pydantic adds that to the location."""
    section: type[BaseModel] | None = Recipe
    named = []
    for part in location:
        if section is None:
            break
        named.append(str(part))
        section = _section(named)
    return named


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004


def _suggestion(where: Sequence[str]) -> str:
    """Name the field that was meant: a like name here, or the same name elsewhere."""
    here = _section(where[:-1])
    near = difflib.get_close_matches(where[-1], here.model_fields, n=1, cutoff=0.4) if here else []
    elsewhere = [name for name in _all_fields(Recipe) if name.split(".")[-1] == where[-1]]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; did you mean {near[0]}?" if near else ""


def _section(path: Sequence[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Recipe
    for name in path:
        field = section.model_fields.get(name)
        if field is None or not _is_section(field.annotation):
            return None
        section = field.annotation  # type: ignore[assignment]
    return section


def _all_fields(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if _is_section(field.annotation):
            yield from _all_fields(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
