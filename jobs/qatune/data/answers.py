"""Lines of `generate/parts/`: each row of the input once, with its answers or with its error."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from pydantic import TypeAdapter

from qatune.data.records import AnsweredRow, FailedRow, Outcome

_ROW: TypeAdapter[Outcome] = TypeAdapter(Outcome)


def encode(rows: Iterable[Outcome]) -> bytes:
    """Write a line a row."""
    return b"".join((json.dumps(asdict(row), ensure_ascii=False) + "\n").encode() for row in rows)


def decode(data: bytes) -> list[Outcome]:
    """Read lines; raise ValueError for one that is neither an answered nor a failed row."""
    return [_ROW.validate_json(line) for line in data.split(b"\n") if line]


def divided(
    rows: Sequence[Outcome],
) -> tuple[list[AnsweredRow], list[FailedRow]]:
    """Part the answered rows from the failed ones; both stay in order."""
    answered = [row for row in rows if isinstance(row, AnsweredRow)]
    return answered, [row for row in rows if isinstance(row, FailedRow)]
