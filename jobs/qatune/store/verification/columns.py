"""A few columns of the rows that preprocess wrote, without reading the others."""

import io
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import parquet

from qatune.data.records import ROWS
from qatune.store.objects import ObjectRef, Stat, Store
from qatune.store.verification.chain import Chain
from qatune.store.verification.objects import fault, stat

_BATCH_ROWS = 8192


def row_files(chain: Chain, side: str) -> list[ObjectRef]:
    """Return the Parquet files of one side of the split, in the order of their rows."""
    refs = chain.stages["preprocess"].outputs_like(".parquet", prefix=f"{side}-")
    return sorted(refs, key=lambda ref: ref.key)


def row_batches(store: Store, ref: ObjectRef, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a file that was checked; raise MissingInputError for what is no rows."""
    file = _Ranges(store, ref.key, stat(store, ref))
    try:
        # It asks for what it needs of all row groups at once, neighbouring columns in one request.
        with parquet.ParquetFile(file, pre_buffer=True) as rows:
            if not rows.schema_arrow.equals(ROWS):
                raise fault(store, ref.key, "has other columns than qatune writes")
            yield from rows.iter_batches(_BATCH_ROWS, columns=columns)
    except (pa.ArrowException, OSError):
        raise fault(store, ref.key, "not Parquet that qatune wrote") from None


class _Ranges(io.RawIOBase):
    """One version of an object, of which only the bytes that are asked for are read."""

    def __init__(self, store: Store, key: str, version: Stat) -> None:
        super().__init__()
        self._store, self._key, self._version = store, key, version
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._version.size}[
            whence
        ]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._version.size - self._position)
        if length <= 0:
            return 0
        data = self._store.read(self._key, self._position, length, etag=self._version.etag)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
