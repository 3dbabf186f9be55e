"""Say in one line what pydantic found wrong with a recipe or a values file."""

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# Lists of lists that YAML's aliases make may hold more than all memory, written out.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxset = 3, 8, 8, 8, 8
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 200
_PYTHON_TYPE = re.compile(r"a valid (tuple|dictionary or instance of \w+)")

Section = type[BaseModel]


def describe(error: ValidationError, root: Section, prefix: Sequence[str] = ()) -> str:
    """Describe the first fault and count the others. `root` stands in the file at `prefix`."""
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for fault in error.errors(include_url=False):
        found.setdefault(_field(fault["loc"], root), []).append(fault)
    where, first = next(iter(found.items()))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return _describe(first, where, root, ".".join([*prefix, *where])) + more


def _describe(
    faults: Sequence[ErrorDetails], where: Sequence[str], root: Section, name: str
) -> str:
    """Put what is wrong with one field, which may be of several types, into one line."""
    fault = faults[0]
    if fault["type"] == "extra_forbidden":
        return f"{name}: unknown field{_suggestion(where, root)}"
    if fault["type"] == "missing":
        return f"{name}: must be given"
    reasons = dict.fromkeys(_reason(each) for each in faults)
    # What is wrong between fields is said by their names: all of the section tells no more.
    known = isinstance(fault["input"], Mapping) and fault["type"] == "value_error"
    value = "" if known else f" (it is {_short(fault['input'])})"
    return f"{name}: {' or '.join(reasons)}{value}"


def _reason(fault: ErrorDetails) -> str:
    a_list = f"a list, as in [{_short(fault['input'])}]"
    reason = _PYTHON_TYPE.sub(
        lambda found: a_list if found[1] == "tuple" else "an object",
        fault["msg"].removeprefix("Value error, "),
    )
    return reason[0].lower() + reason[1:]


def _field(location: Sequence[int | str], root: Section) -> tuple[str, ...]:
    """Cut off which of a field's types was tried: pydantic adds that to the location."""
    section: Section | None = root
    named: list[str] = []
    for part in location:
        if section is None:
            break
        named.append(str(part))
        section = _section(named, root)
    return tuple(named)


def _short(value: Any) -> str:
    try:
        text = _SHORT.repr(value)
    except ValueError:  # what Python says of a whole number of thousands of digits
        return "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004


def _suggestion(where: Sequence[str], root: Section) -> str:
    """Name the field that was meant: a like name here, or the same name elsewhere."""
    here = _section(where[:-1], root)
    near = difflib.get_close_matches(where[-1], _fields(here), n=1, cutoff=0.4) if here else []
    elsewhere = [name for name in _all_fields(root) if name.split(".")[-1] == where[-1]]
    if elsewhere:
        return f"; did you mean {elsewhere[0].removeprefix('recipe.')}?"
    return f"; did you mean {near[0]}?" if near else ""


def _fields(section: Section) -> dict[str, Any]:
    """Return the type of each field, by the name that it has in a file."""
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def _section(path: Sequence[str], root: Section) -> Section | None:
    section = root
    for name in path:
        annotation = _fields(section).get(name)
        if annotation is None or not _is_section(annotation):
            return None
        section = annotation
    return section


def _all_fields(section: Section, prefix: str = "") -> Iterator[str]:
    for name, annotation in _fields(section).items():
        yield prefix + name
        if _is_section(annotation):
            yield from _all_fields(annotation, f"{prefix}{name}.")


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
