"""Compressed files, told by their suffix, as plain streams."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, BinaryIO

import pyarrow as pa

from qatune.errors import BadDataError

ARCHIVES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
_MAGIC = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip", b"PAR1": "parquet", b"%PDF": "PDF",
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip
_BUFFER = 1 << 20
# What the decoders raise for damaged bytes. Arrow has other errors, too: an interruption is one.
_DAMAGE = (
    EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError, pa.ArrowInvalid, pa.ArrowIndexError,
    pa.ArrowKeyError, pa.ArrowNotImplementedError, pa.ArrowTypeError,
)  # fmt: skip


def archive_suffix(name: str) -> str:
    """Return `.gz` of `rows.csv.gz`, and nothing of `rows.csv`."""
    suffix = PurePath(name).suffix.lower()
    return suffix if suffix in ARCHIVES else ""


def decompressed(file: BinaryIO | io.RawIOBase, name: str) -> io.BufferedReader:
    """Return the content of `file`, unpacked as the suffix of `name` says."""
    suffix = archive_suffix(name)
    stream: Any = file
    if suffix == ".gz":
        stream = gzip.GzipFile(fileobj=stream)
    elif suffix == ".bz2":
        stream = bz2.BZ2File(stream)
    elif suffix == ".xz":
        stream = lzma.LZMAFile(stream)  # noqa: SIM115  # closed with what wraps it
    elif suffix == ".zst":
        stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
    return io.BufferedReader(stream, _BUFFER)


def content_name(head: bytes) -> str | None:
    """Name the format that the first bytes of a file give away; None for text."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


@contextmanager
def damage_named(where: str, kind: str) -> Iterator[None]:
    """Turn what the decoders raise for a broken file into a BadDataError that names it."""
    try:
        yield
    except _DAMAGE as error:
        raise BadDataError(_damaged(where, kind, error)) from error
    except OSError as error:
        if error.errno is not None:  # the disk's or the network's fault, not the file's
            raise
        raise BadDataError(_damaged(where, kind, error)) from error


def _damaged(where: str, kind: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:160]
    return f"{where}: not a {kind} file, or a damaged or incomplete one ({reason}); copy it again"
