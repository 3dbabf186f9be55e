"""Objects by ranges, several at a time: no stream is held open while its reader is at work."""

import fcntl
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from qatune import log
from qatune.errors import MissingInputError
from qatune.store.folder import TEMPORARY, plain_errors, remove_leftovers
from qatune.store.objects import CHUNK_BYTES, Stat, Store

_AHEAD = 3
_STREAMS = 8


def cache_folder() -> Path:
    """Where copies of models and adapters lie on this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("QATUNE_CACHE") or f"{base}/qatune").expanduser()


def download(
    store: Store,
    files: Mapping[str, tuple[str, Stat]],
    target: Path,
    source: str,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Copy objects to files of these names; the folder appears when it is whole and `check` passed.

    `source` names it all in the log. Of several processes of one machine only one does it, while
    the others wait.
    """
    start, size = time.monotonic(), sum(stat.size for _, stat in files.values())
    with plain_errors(str(target)), _alone(target):
        if target.is_dir():
            return
        log.get().info("downloading", source=source, files=len(files), bytes=size)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=TEMPORARY))
        try:
            _copy(store, files, temporary)
            check(temporary)
            _move(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    seconds = round(time.monotonic() - start, 1)
    log.get().info("downloaded", source=source, bytes=size, seconds=seconds)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait until no other process of this machine makes this folder."""
    path = cache_folder() / "locks" / target.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        with suppress(OSError):  # a file system without locks: each downloads for itself
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(store: Store, files: Mapping[str, tuple[str, Stat]], folder: Path) -> None:
    for name, (_, stat) in files.items():
        _reserve(folder, name, stat.size)
    blocks = [
        (name, start)
        for name, (_, stat) in files.items()
        for start in range(0, stat.size, CHUNK_BYTES)
    ]

    def copy(block: tuple[str, int]) -> None:
        name, start = block
        data = _read_block(store, *files[name], start)
        with (folder / name).open("r+b") as file:
            file.seek(start)
            file.write(data)

    with ThreadPoolExecutor(_STREAMS) as pool:
        list(pool.map(copy, blocks))


def _reserve(folder: Path, name: str, size: int) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise MissingInputError(f"{name!r}: a name that leaves its folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.truncate(size)


def _move(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        # Another process may have been faster: its folder holds the same bytes.
        if not target.is_dir():
            raise


def open_ranged(store: Store, key: str, stat: Stat) -> BinaryIO:
    """Open one version of an object; what comes next is asked for ahead."""
    return cast("BinaryIO", io.BufferedReader(_RangedReader(store, key, stat), 1024 * 1024))


class _RangedReader(io.RawIOBase):
    """One version of an object by ranges of 8 MiB, some of them ahead of the reader.

    Holds at most the block that is read and `_AHEAD` more; no connection waits in between.
    """

    def __init__(self, store: Store, key: str, stat: Stat) -> None:
        super().__init__()
        self._store, self._key, self._stat = store, key, stat
        self._position = 0
        self._last = -1
        self._blocks: dict[int, Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(_AHEAD + 1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stat.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        if self._position >= self._stat.size:
            return 0
        index, start = divmod(self._position, CHUNK_BYTES)
        piece = self._block(index)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._blocks.clear()
        super().close()

    def _block(self, index: int) -> bytes:
        # A reader that jumps about (Parquet) pays for what it asks; one that goes on gets more.
        ahead = _AHEAD if index in {self._last, self._last + 1} else 0
        self._last = index
        wanted = range(index, index + ahead + 1)
        for old in [each for each in self._blocks if each not in wanted]:
            self._blocks.pop(old).cancel()
        for each in wanted:
            if each not in self._blocks and each * CHUNK_BYTES < self._stat.size:
                start = each * CHUNK_BYTES
                self._blocks[each] = self._pool.submit(
                    _read_block, self._store, self._key, self._stat, start
                )
        return self._blocks[index].result()


def _read_block(store: Store, key: str, stat: Stat, start: int) -> bytes:
    length = min(CHUNK_BYTES, stat.size - start)
    return store.read(key, start, length, etag=stat.etag)
