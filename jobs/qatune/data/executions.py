"""Lines of `evaluate/execution/`: what became of each row's answers when they were run."""

import json
from collections.abc import Iterable
from dataclasses import asdict

from pydantic import TypeAdapter

from qatune.data.records import ExecutedRow

_ROW = TypeAdapter(ExecutedRow)


def encode(rows: Iterable[ExecutedRow]) -> bytes:
    """Write a line a row."""
    return b"".join((json.dumps(asdict(row), ensure_ascii=False) + "\n").encode() for row in rows)


def decode(data: bytes) -> list[ExecutedRow]:
    """Read lines; raise ValueError for one that is no executed row."""
    return [_ROW.validate_json(line) for line in data.split(b"\n") if line]
