"""The parts of generate, read and checked ahead of whoever compares their rows."""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from qatune.data.ahead import mapped_ahead
from qatune.store.objects import ObjectRef, Store
from qatune.store.verification.objects import fault, whole

_REQUESTS = 16  # parts are small: most of what one takes is its request's time
_WINDOW = 64  # parsed at once, which takes half the time of one by one
_WINDOW_BYTES = 32 * 1024 * 1024
_BLOCK_BYTES = 1024 * 1024 * 1024  # no line of a part is as long
_READ = pa.schema(
    [
        ("id", pa.string()),
        ("code", pa.string()),
        ("base", pa.struct([("tokens", pa.int64())])),  # as much of the answer as shows it is there
    ]
)


@dataclass(frozen=True)
class Chunk:
    """The objects of one chunk, as manifests name them."""

    part: ObjectRef
    errors: ObjectRef | None
    errors_key: str


@dataclass(frozen=True)
class Part:
    """What is in them: the id of each row, and how many got no answer."""

    key: str
    ids: Sequence[str]
    failed: int


def read_parts(store: Store, chunks: Iterable[Chunk]) -> Iterator[Part]:
    """Hash and read parts, in their order; raise MissingInputError for the first that is wrong."""
    with ThreadPoolExecutor(_REQUESTS) as requests:
        yield from (
            part
            for window in mapped_ahead(partial(_read, store, requests), _windows(chunks))
            for part in window
        )


def _windows(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    window: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if window and (len(window) == _WINDOW or size + chunk.part.size > _WINDOW_BYTES):
            yield window
            window, size = [], 0
        window.append(chunk)
        size += chunk.part.size
    if window:
        yield window


def _read(store: Store, requests: ThreadPoolExecutor, window: Sequence[Chunk]) -> list[Part]:
    refs = [chunk.part for chunk in window]
    data = list(requests.map(partial(whole, store), refs))
    lines = [_lines(store, ref.key, each) for ref, each in zip(refs, data, strict=True)]
    rows = _rows(b"".join(data))
    if rows is None or len(rows) != sum(lines):
        rows = pa.concat_tables(
            _checked(store, ref.key, each, count)
            for ref, each, count in zip(refs, data, lines, strict=True)
        )
    return list(_parts(store, window, data, lines, rows))


def _lines(store: Store, key: str, data: bytes) -> int:
    """Count lines that begin and end as an object of JSON does."""
    if not data.startswith(b"{") or not data.endswith(b"}\n"):
        raise fault(store, key, "not the lines of JSON that qatune wrote")
    return data.count(b"}\n{") + 1


def _checked(store: Store, key: str, data: bytes, lines: int) -> pa.Table:
    """Parse one part by itself, to name it where it cannot be."""
    try:
        rows = _rows(data)
        if rows is None:  # Python writes and reads NaN, which is no JSON
            rows = pa.Table.from_pylist([json.loads(line) for line in data.splitlines()], _READ)
    except (pa.ArrowException, ValueError, TypeError):
        rows = None
    if rows is None or len(rows) != lines:
        raise fault(store, key, "not the lines of JSON that qatune wrote")
    return rows


def _rows(data: bytes) -> pa.Table | None:
    try:
        return arrow_json.read_json(
            pa.BufferReader(data),
            read_options=arrow_json.ReadOptions(
                use_threads=False, block_size=min(len(data), _BLOCK_BYTES)
            ),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=_READ, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None


def _parts(
    store: Store,
    window: Sequence[Chunk],
    data: Sequence[bytes],
    lines: Sequence[int],
    rows: pa.Table,
) -> Iterator[Part]:
    start = 0
    for chunk, content, count in zip(window, data, lines, strict=True):
        yield _part(store, chunk, content, rows.slice(start, count))
        start += count


def _part(store: Store, chunk: Chunk, data: bytes, rows: pa.Table) -> Part:
    """Hold that a row has a code or answers, never both, and that `errors/` repeats the failed."""
    code, base, key = rows["code"], rows["base"], chunk.part.key
    failed = len(rows) - code.null_count
    try:
        ids = rows["id"].to_pylist()
    except UnicodeDecodeError:
        raise fault(store, key, "not the lines of JSON that qatune wrote") from None
    if (
        failed != base.null_count
        or not pc.all(pc.xor(code.is_valid(), base.is_valid())).as_py()
        or None in ids
    ):
        raise fault(store, key, "has a line that is neither an answered row nor a failed one")
    errors = whole(store, chunk.errors) if chunk.errors else b""
    if errors != (_failed_lines(data, code) if failed else b""):
        raise fault(store, chunk.errors_key, "does not hold the failed rows of its part")
    return Part(key, ids, failed)


def _failed_lines(data: bytes, code: pa.ChunkedArray) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(
        line for line, failed in zip(lines, code.is_valid().to_pylist(), strict=True) if failed
    )
