"""Read a recipe, change fields of it, name what is wrong with it, and tell two apart."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from qatune.config import Recipe
from qatune.errors import BadRecipeError, MissingInputError
from qatune.faults import describe
from qatune.values import Values

_OBJECT = re.compile(r"\{\s*\w+:\s")
# PyYAML lets through what Python raises for a value that is not of its tag: a thirteenth month,
# a number of thousands of digits. Brackets that are nested deeply end in a RecursionError.
_NOT_YAML = (
    yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


def shipped() -> dict[str, Path]:
    """Name and file of every recipe that comes with the package."""
    folder = Path(str(resources.files("qatune"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe or a file, with `a.b=c` applied on top.

    Raises MissingInputError for no such recipe, BadRecipeError for a wrong one.
    """
    return load_values(name_or_path, overrides).recipe


def load_values(name_or_path: str, overrides: Sequence[str] = ()) -> Values:
    """Read the whole file, with what it says of the cluster. Overrides are the recipe's."""
    fields = _fields(shipped().get(name_or_path, Path(name_or_path)))
    for override in overrides:
        _set_field(fields["recipe"], override)
    try:
        values = Values.model_validate(fields)
    except ValidationError as error:
        raise BadRecipeError(describe(error, Values)) from None
    _refuse_unwritable(values.recipe)
    return values


def validate(fields: Mapping[str, Any]) -> Recipe:
    """Build the recipe, or raise BadRecipeError with one line for its first fault."""
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise BadRecipeError(describe(error, Recipe, ("recipe",))) from None
    _refuse_unwritable(recipe)
    return recipe


def _refuse_unwritable(recipe: Recipe) -> None:
    """Raise BadRecipeError for half a surrogate pair, or a number of thousands of digits."""
    for name, value in leaves(recipe.model_dump(mode="json")):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except ValueError as error:
            raise BadRecipeError(f"recipe.{name}: cannot be written down: {error}") from None


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
    except (ValueError, RecursionError) as error:
        raise BadRecipeError(f"{where}: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadRecipeError(f"{where}: not a recipe: an object with fields is expected")
    return validate(fields)


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """Name each field in which two recipes differ: `train.seed: 1 there, 2 here`."""
    left, right = dict(leaves(ours.model_dump())), dict(leaves(theirs.model_dump()))
    return [
        f"{name}: {left.get(name)!r} there, {right.get(name)!r} here"
        for name in left | right
        if left.get(name) != right.get(name)
    ]


def leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return each field by its whole name: `train.lora.r`, 16."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _fields(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise MissingInputError(
                f"recipe {str(path)!r}: no such file, and not one of {', '.join(shipped())}"
            )
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a safe one
    except _NOT_YAML as error:
        reason = " ".join(str(error).split())
        raise BadRecipeError(f"{path}: not YAML: {reason}") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(values, dict) or not isinstance(values.get("recipe"), dict):
        raise BadRecipeError(f"{path}: no recipe in it: its fields stand under the key 'recipe:'")
    return values


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key that is there twice is an error, not an overwriting."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in names:
                raise yaml.MarkedYAMLError(
                    problem=f"key {name!r} is there twice", problem_mark=node.start_mark
                )
            names.add(name)
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
    except _NOT_YAML:
        raise BadRecipeError(f"--set {override}: the value is not YAML") from None
