"""Rows on disk: one spool while they come in, then parts of bounded size for each side."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from qatune.data.ahead import ahead
from qatune.data.records import ROWS

PART_ROWS = 50_000
PART_BYTES = 64 * 1024 * 1024
_GROUP_BYTES = 8 * 1024 * 1024


def spool_writer(path: Path) -> ipc.RecordBatchStreamWriter:
    """Open a file for rows whose side is not known yet."""
    return ipc.new_stream(str(path), ROWS, options=ipc.IpcWriteOptions(compression="lz4"))


def divide(spool: Path, held_out: Any, folder: Path) -> Iterator[Path]:
    """Write the spool's rows to `train-*.parquet` and `test-*.parquet`, yielding finished files.

    `held_out` marks each row. The same rows give the same bytes.
    """
    sides = {False: _Parts(folder, "train"), True: _Parts(folder, "test")}
    with closing(ahead(_sided(spool, held_out), depth=8)) as pieces:
        for side, rows in pieces:
            yield from sides[side].add(rows)
    for parts in sides.values():
        yield from parts.close()


def _sided(spool: Path, held_out: Any) -> Iterator[tuple[bool, pa.RecordBatch]]:
    done = 0
    # Given a path, it would map the file, all of which then counts as this process's memory.
    with pa.OSFile(str(spool)) as file, ipc.open_stream(file) as rows:
        for batch in rows:
            mask = held_out[done : done + len(batch)]
            done += len(batch)
            for side in (False, True):
                yield side, batch.filter(pa.array(mask == side))


class _Parts:
    """Numbered files of one side, each filled up to its bounds."""

    def __init__(self, folder: Path, side: str) -> None:
        self._folder, self._side = folder, side
        self._writer: parquet.ParquetWriter | None = None
        self._path = folder
        self._number = self._rows = self._bytes = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    def add(self, batch: pa.RecordBatch) -> Iterator[Path]:
        while len(batch):
            room = PART_ROWS - self._rows
            first, batch = batch[:room], batch[room:]
            self._waiting.append(first)
            size = first.nbytes
            self._rows += len(first)
            self._bytes += size
            self._waiting_bytes += size
            if self._rows >= PART_ROWS or self._bytes >= PART_BYTES:
                yield from self.close()
            elif self._waiting_bytes >= _GROUP_BYTES:
                self._flush()

    def close(self) -> Iterator[Path]:
        """Finish the file under way, if there is one."""
        if not self._rows:
            return
        self._flush()
        assert self._writer
        self._writer.close()
        self._writer = None
        self._number += 1
        self._rows = self._bytes = 0
        yield self._path

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            self._path = self._folder / f"{self._side}-{self._number:05d}.parquet"
            # Texts and ids hardly repeat: dictionaries of them cost time and save nothing.
            self._writer = parquet.ParquetWriter(
                self._path, ROWS, compression="zstd", use_dictionary=["file"]
            )
        self._writer.write_table(pa.Table.from_batches(self._waiting))
        self._waiting = []
        self._waiting_bytes = 0
