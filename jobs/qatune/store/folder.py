"""A store in a folder of this machine."""

import errno
import io
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from qatune.errors import MissingInputError, NotAllowedError, QatuneError, UnavailableError
from qatune.store.objects import ConflictError, NoSuchObjectError, Stat

TEMPORARY = ".qatune-tmp-"
_DEAD_AFTER_SECONDS = 24 * 3600
_TRIES = 20
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


class FolderStore:
    """Objects are files. One appears under its name only when it is whole and on the disk."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or "/"
        self.notes: list[str] = []
        self._root = Path(uri).expanduser().absolute()
        self._tidied: set[Path] = set()

    def stat(self, key: str) -> Stat | None:
        with plain_errors(self.uri):
            try:
                found = self._path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return _stat(found) if self._path(key).is_file() else None

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> bytes:
        with plain_errors(self.uri):
            try:
                file = self._path(key).open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise NoSuchObjectError(f"{self.uri}/{key}: no such object") from None
            with file:
                if etag is not None and _stat(os.fstat(file.fileno())).etag != etag:
                    raise ConflictError(f"{self.uri}/{key}: changed while it was read; run again")
                file.seek(start)
                return file.read(-1 if length is None else length)

    def create(self, key: str, source: bytes | Path) -> bool:
        path = self._path(key)
        # Opened first: that a source is missing says nothing about this store.
        with _opened(source) as content, self._written(path, content) as temporary:
            try:
                # Unlike a rename, a link never writes over what is there.
                os.link(temporary, path)
            except FileExistsError:
                return False
            _sync_folder(path.parent)
            return True

    def replace(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._written(path, io.BytesIO(data)) as temporary:
            temporary.replace(path)

    def keys(self, prefix: str) -> Iterator[str]:
        folder = self._path(prefix.rpartition("/")[0] or ".")
        with plain_errors(self.uri):
            for path in _files(folder):
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix) and TEMPORARY not in path.name and path.is_file():
                    yield key

    def delete(self, key: str) -> None:
        with plain_errors(self.uri), suppress(FileNotFoundError, NotADirectoryError):
            path = self._path(key)
            path.unlink()
            with suppress(OSError):  # not empty
                for folder in path.relative_to(self._root).parents[:-1]:
                    (self._root / folder).rmdir()

    @contextmanager
    def _written(self, path: Path, content: BinaryIO) -> Iterator[Path]:
        """Put the content in a file beside `path`, on the disk, and take the file away after."""
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        with plain_errors(self.uri):
            self._tidy(path.parent)
            try:
                with _opened_in_new_folder(temporary) as file:
                    shutil.copyfileobj(content, file, 1024 * 1024)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
            finally:
                with suppress(OSError):
                    temporary.unlink()

    def _tidy(self, folder: Path) -> None:
        if folder not in self._tidied:
            self._tidied.add(folder)
            remove_leftovers(folder)

    def _path(self, key: str) -> Path:
        if not key or key.startswith("/") or ".." in key.split("/") or "\0" in key:
            raise MissingInputError(f"{self.uri}: {key!r} cannot be the name of an object")
        return self._root / key


def _stat(found: os.stat_result) -> Stat:
    return Stat(found.st_size, f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}")


def _opened(source: bytes | Path) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _files(folder: Path) -> Iterator[Path]:
    """Walk a tree whose folders may vanish meanwhile, as `delete` takes empty ones away."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in names)


def _opened_in_new_folder(path: Path) -> BinaryIO:
    """Open a new file; another process may take its folder away, as long as that is empty."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
    raise UnavailableError(f"{path.parent}: vanishes again and again; is it being deleted?")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer left in this folder; whoever still writes is spared."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _DEAD_AFTER_SECONDS:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def plain_errors(uri: str) -> Iterator[None]:
    """Turn the system's errors into one line each."""
    try:
        yield
    except OSError as error:
        raise explained(error, uri) from error


def explained(error: OSError, uri: str) -> QatuneError:
    """Say what a failed write or read of the folder means."""
    if error.errno in _FULL:
        return UnavailableError(
            f"the disk of {uri} is full; free space and run the same command again"
        )
    if error.errno in _FORBIDDEN:
        return NotAllowedError(
            f"{uri}: {error.strerror}; give this user access, or choose another place"
        )
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return MissingInputError(f"{uri}: a file is in the way of a folder: {error.filename}")
    return UnavailableError(f"{uri}: {error.strerror or error}; run the same command again")
