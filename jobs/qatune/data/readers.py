"""Rows of CSV, JSONL and Parquet files: each record is a SourceRow or a Rejected one.

Readers hold one record (CSV, JSONL) or one small batch (Parquet) at a time. A record that cannot
be used is rejected alone; a file that cannot be read is a BadDataError that names it.
"""

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BufferedReader, RawIOBase, TextIOWrapper
from itertools import chain
from pathlib import PurePath
from typing import Any, BinaryIO, cast

import pyarrow as pa
from pyarrow import parquet

from qatune.config import Columns
from qatune.data.archives import (
    ARCHIVES,
    archive_suffix,
    content_name,
    damage_named,
    decompressed,
)
from qatune.data.records import Reason, Rejected, SourceRow
from qatune.errors import BadDataError

RECORD_BYTES = 64 * 1024 * 1024
"""A longer record is taken for damage, not for a row."""
_PARQUET_ROWS = 256
_NEWLINE = re.compile(r"\r\n?|\n")
_BOM = b"\xef\xbb\xbf"

Record = SourceRow | Rejected
Reader = Callable[[BufferedReader, str, Columns], Iterator[Record]]


def format_suffix(name: str) -> str | None:
    """Return `.csv` of `rows.csv.gz`; None where no reader knows the file's format."""
    plain = name[: len(name) - len(archive_suffix(name))]
    suffix = PurePath(plain).suffix.lower()
    return suffix if suffix in _READERS else None


def read_rows(
    file: BinaryIO | RawIOBase, name: str, where: str, columns: Columns
) -> Iterator[Record]:
    """Read a file whose `name` tells format and compression; `where` names it in messages."""
    suffix = format_suffix(name)
    if suffix is None:
        raise BadDataError(f"{where}: unknown kind of file; {known_names()}")
    archive = ARCHIVES.get(archive_suffix(name))
    kind = f"{archive}-compressed {suffix[1:]}" if archive else suffix[1:]
    with damage_named(where, kind), _content(file, name) as content:
        yield from _READERS[suffix](content, where, columns)


@contextmanager
def _content(file: BinaryIO | RawIOBase, name: str) -> Iterator[BufferedReader]:
    plain = decompressed(file, name)
    if format_suffix(name) != ".parquet" or not archive_suffix(name):
        yield plain
        return
    with tempfile.TemporaryFile() as copy:  # Parquet is read from its end
        shutil.copyfileobj(plain, copy, 1 << 20)
        copy.seek(0)
        yield cast("BufferedReader", copy)  # one that can be written, too


def needs_seeking(name: str) -> bool:
    """Tell whether the reader jumps about in the file as it stands."""
    return format_suffix(name) == ".parquet" and not archive_suffix(name)


def known_names() -> str:
    return f"its name must end in {', '.join(_READERS)}, plain or with {', '.join(ARCHIVES)}"


def _record(where: str, row: int, cells: Sequence[Any], *, tested: bool) -> Record:
    """Check a record's cells, in the order of `_places`; if `tested`, the last holds its tests."""
    texts, tests = (cells[:-1], cells[-1]) if tested else (cells, None)
    reason = _fault(texts)
    if reason is None and tests is not None:
        reason = _text_fault([tests])
    if reason is None:
        name = texts[2] if len(texts) > 2 else None  # noqa: PLR2004
        given = tests if tests and tests.strip() else None
        return SourceRow(where, row, texts[0], texts[1], name, given)
    shown = [text if isinstance(text, str) else None for text in texts[:2]]
    return Rejected(where, row, reason, *shown)


def _fault(texts: Sequence[Any]) -> Reason | None:
    if None in texts or (len(texts) > 2 and texts[2] == ""):  # noqa: PLR2004
        return "null"
    if reason := _text_fault(texts):
        return reason
    if not texts[0].strip():
        return "empty_question"
    return None if texts[1].strip() else "empty_answer"


def _text_fault(texts: Sequence[Any]) -> Reason | None:
    for text in texts:
        if not isinstance(text, str):
            return "malformed"
        if not _is_unicode(text):
            return "undecodable"
        if "\0" in text:
            return "nul_byte"
    return None


def _is_unicode(text: str) -> bool:
    """Tell bytes that were not UTF-8, and lone surrogates of JSON, from text."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _missing_column(where: str, name: str, field: str, found: Sequence[str]) -> BadDataError:
    names = ", ".join(found)
    names = names if len(names) <= 200 else names[:197] + "..."  # noqa: PLR2004
    # Names may hold bytes that no terminal takes.
    names = names if names.isprintable() else names.encode("unicode_escape").decode()
    return BadDataError(
        f"column {name!r} not found in {where}; it has: {names}; set data.columns.{field}"
    )


def _places(where: str, columns: Columns, found: Sequence[str]) -> list[int]:
    """Find question, answer and, if asked for, id and tests, in this order, in a file."""
    places = []
    for field, name in columns.model_dump().items():
        if name is None:
            continue
        if name not in found:
            raise _missing_column(where, name, field, found)
        if found.count(name) > 1:
            raise BadDataError(f"{where}: column {name!r} is there twice; rename one of them")
        places.append(found.index(name))
    return places


def _refuse_other_content(file: BufferedReader, where: str, kind: str) -> bytes:
    """Return the first bytes of a text file; raise where they show another format."""
    head = file.peek(16)
    if not head:
        raise BadDataError(f"{where}: the file is empty")
    if other := content_name(head):
        raise BadDataError(
            f"{where}: this is a {other} file, not {kind}; rename it, or convert it to UTF-8 text"
        )
    return head


class _End:
    """An iterator over nothing, which knows whether it was asked."""

    reached = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.reached = True
        raise StopIteration


def _csv_records(file: BufferedReader, where: str) -> Iterator[list[str]]:
    """Yield the cells of each record, header included, blank lines not.

    A quote that is never closed is a BadDataError: it would swallow all rows after it.
    """
    csv.field_size_limit(RECORD_BYTES - 1)
    text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    end = _End()
    # There are many lines to a record: nothing here may call Python code for each.
    cells = csv.reader(chain(iter(partial(text.readline, RECORD_BYTES), ""), end))
    starts = 1
    try:
        for record in cells:
            if end.reached and record:  # it took the file's end to close this one
                raise _open_quote(where, record[-1], cells.line_num)
            if _may_be_cut(record):
                raise _endless_record(where, starts)
            if record:
                yield record
            starts = cells.line_num + 1
    except csv.Error:
        raise _endless_record(where, starts) from None


def _may_be_cut(record: Sequence[str]) -> bool:
    """Tell whether a record is so long that it may be the first RECORD_BYTES of a longer line.

    The csv module takes the end of what it is given for the end of the line. A cell is written
    with a comma and two quotes more than it holds, and with each quote in it twice.
    """
    held, around = sum(map(len, record)), 3 * len(record)
    if 2 * held + around < RECORD_BYTES:
        return False
    return held + around + sum(cell.count('"') for cell in record) >= RECORD_BYTES


def _endless_record(where: str, starts: int) -> BadDataError:
    return BadDataError(
        f"{where}: the record that starts in line {starts} goes on for more than "
        f"{RECORD_BYTES >> 20} MiB: is a quote never closed there?"
    )


def _open_quote(where: str, cell: str, last_line: int) -> BadDataError:
    newlines = len(_NEWLINE.findall(cell)) - cell.endswith(("\r", "\n"))
    return BadDataError(
        f"{where}: the quote that opens in line {last_line - newlines} is never closed; "
        "close it, or write it twice inside a quoted cell"
    )


def read_csv(file: BufferedReader, where: str, columns: Columns) -> Iterator[Record]:
    """Read the csv module's default dialect, with a header."""
    _refuse_other_content(file, where, "CSV")
    records = _csv_records(file, where)
    header = next(records, [])
    places = _places(where, columns, header)
    for row, record in enumerate(records, start=1):
        if len(record) == len(header):
            # An empty cell is how CSV writes a null.
            cells = [record[place] or None for place in places]
            yield _record(where, row, cells, tested=columns.tests is not None)
        else:
            texts = [record[place] if place < len(record) else None for place in places[:2]]
            yield Rejected(where, row, "malformed", *texts)


def read_jsonl(file: BufferedReader, where: str, columns: Columns) -> Iterator[Record]:
    """Read one JSON object a line; blank lines do not count."""
    head = _refuse_other_content(file, where, "JSONL")
    if head.removeprefix(_BOM).lstrip().startswith(b"["):
        raise BadDataError(f"{where}: this is one JSON array; write one object a line")
    names = [name for name in columns.model_dump().values() if name is not None]
    found: dict[str, None] = {}
    row = 0
    for line in byte_lines(file):
        if not line.strip():
            continue
        row += 1
        fields = _json_object(line)
        if isinstance(fields, str):
            yield Rejected(where, row, fields, line[:800].decode(errors="replace"))
            continue
        if len(found) < 1000:  # noqa: PLR2004  # names for the message, not all of a hostile file
            found.update(dict.fromkeys(fields))
        found.update((name, None) for name in names if name in fields)
        cells = [_id_or_text(fields, name, columns) for name in names]
        yield _record(where, row, cells, tested=columns.tests is not None)
    if found:
        _places(where, columns, list(found))


def byte_lines(file: BufferedReader) -> Iterator[bytes]:
    """Split into lines; one that is too long ends early, in a bracket, so that it cannot parse."""
    bom = _BOM
    while line := file.readline(RECORD_BYTES):
        yield line.removeprefix(bom) + (b"[" if _is_cut(line) else b"")
        bom = b""
        while _is_cut(line):
            line = file.readline(RECORD_BYTES)


def _is_cut(line: bytes) -> bool:
    return len(line) >= RECORD_BYTES and not line.endswith(b"\n")


def _json_object(line: bytes) -> dict[str, Any] | Reason:
    try:
        fields = json.loads(line.decode())
    except UnicodeDecodeError:
        return "undecodable"
    except (ValueError, RecursionError):
        return "nul_byte" if b"\0" in line else "malformed"
    return fields if isinstance(fields, dict) else "malformed"


def _id_or_text(fields: dict[str, Any], name: str, columns: Columns) -> Any:
    value = fields.get(name)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if name == columns.id and is_number else value


def read_parquet(file: BufferedReader, where: str, columns: Columns) -> Iterator[Record]:
    """Read text columns; an id may be a whole number, too."""
    if not file.peek(1):
        raise BadDataError(f"{where}: the file is empty")
    source = parquet.ParquetFile(file)
    schema = source.schema_arrow
    places = _places(where, columns, schema.names)
    for place in places:
        _check_type(where, schema.field(place), is_id=schema.names[place] == columns.id)
    names = [schema.names[place] for place in places]
    row = 0
    for batch in source.iter_batches(_PARQUET_ROWS, columns=names):
        for cells in zip(*(_texts(batch.column(name)) for name in names), strict=True):
            row += 1
            yield _record(where, row, cells, tested=columns.tests is not None)


def _check_type(where: str, field: pa.Field, *, is_id: bool) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return
    if is_id and pa.types.is_integer(kind):
        return
    raise BadDataError(f"{where}: column {field.name!r} is {field.type}, not text; convert it")


def _texts(column: Any) -> list[str | None]:
    """Texts of a column; bytes that are not UTF-8 stay recognizable, as in CSV."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind):
        return [None if value is None else str(value) for value in column.to_pylist()]
    raw = column.cast(kind).cast(pa.large_binary()).to_pylist()
    return [None if text is None else text.decode(errors="surrogateescape") for text in raw]


_READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_jsonl,
    ".parquet": read_parquet,
}
