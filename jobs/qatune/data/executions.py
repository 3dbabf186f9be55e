"""Objects of `evaluate/execution/`: what became of some rows' answers when they were run.

The first line says where they were; then comes a line a row.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import TypeAdapter

from qatune.data.records import ExecutedRow

SandboxKind = Literal["bubblewrap", "none", "server"]


@dataclass(frozen=True)
class _Head:
    sandbox: SandboxKind


@dataclass(frozen=True)
class Chunk:
    """Rows whose answers were run together."""

    sandbox: SandboxKind
    rows: Sequence[ExecutedRow]


_HEAD, _ROW = TypeAdapter(_Head), TypeAdapter(ExecutedRow)


def encode(chunk: Chunk) -> bytes:
    lines = [asdict(_Head(chunk.sandbox)), *(asdict(row) for row in chunk.rows)]
    return b"".join((json.dumps(line, ensure_ascii=False) + "\n").encode() for line in lines)


def decode(data: bytes) -> Chunk:
    """Read a chunk; raise ValueError for what is none."""
    head, *lines = data.split(b"\n")
    return Chunk(
        _HEAD.validate_json(head).sandbox, [_ROW.validate_json(line) for line in lines if line]
    )
