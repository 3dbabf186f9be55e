"""What evaluate and a sandbox elsewhere say to each other: a program, and its outcome. Pure."""

from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from qatune.config import Execute
from qatune.data.records import MESSAGE_CHARACTERS, Executed
from qatune.errors import one_line
from qatune.execution import MOST_PARALLEL
from qatune.execution.program import Program

_Read = TypeVar("_Read")

BODY_BYTES = 8 << 20
"""A program that is longer is not run."""
REPLY_BYTES = 1 << 14


@dataclass(frozen=True)
class Request:
    program: Program
    limits: Execute


@dataclass(frozen=True)
class Greeting:
    """What a sandbox says of itself."""

    parallel: Annotated[int, Field(ge=1, le=MOST_PARALLEL)]
    """So many programs at a time."""


_REQUEST = TypeAdapter(Request)
_EXECUTED = TypeAdapter(Executed)
_GREETING = TypeAdapter(Greeting)


def request(program: Program, limits: Execute) -> bytes:
    return _REQUEST.dump_json(Request(program, limits))


def requested(data: bytes) -> Request:
    """Read a request; raise ValueError for anything else."""
    return _read(_REQUEST, data)


def reply(found: Executed) -> bytes:
    return _EXECUTED.dump_json(found)


def executed(data: bytes) -> Executed:
    """Read a reply; raise ValueError for anything else. The sandbox is not trusted either."""
    found = _read(_EXECUTED, data)
    return Executed(found.outcome, one_line(found.message)[:MESSAGE_CHARACTERS])


def greeting(parallel: int) -> bytes:
    return _GREETING.dump_json(Greeting(parallel))


def greeted(data: bytes) -> Greeting:
    """Read a greeting; raise ValueError for anything else."""
    return _read(_GREETING, data)


def _read(adapter: TypeAdapter[_Read], data: bytes) -> _Read:
    try:
        return adapter.validate_json(data)
    except ValidationError:
        raise ValueError("not what a sandbox of this version says") from None
