"""A store in memory: for trying things, and for tests."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

from qatune.store.objects import ConflictError, NoSuchObjectError, Stat


class MemoryStore:
    def __init__(self, uri: str = "memory:") -> None:
        self.uri = uri
        self.notes: list[str] = []
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def stat(self, key: str) -> Stat | None:
        data = self._objects.get(key)
        return None if data is None else Stat(len(data), _etag(data))

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> bytes:
        data = self._objects.get(key)
        if data is None:
            raise NoSuchObjectError(f"{self.uri}/{key}: no such object")
        if etag is not None and _etag(data) != etag:
            raise ConflictError(f"{self.uri}/{key}: changed while it was read; run again")
        return data[start : None if length is None else start + length]

    def create(self, key: str, source: bytes | Path) -> bool:
        data = source if isinstance(source, bytes) else source.read_bytes()
        with self._lock:
            if key in self._objects:
                return False
            self._objects[key] = data
            return True

    def replace(self, key: str, data: bytes) -> None:
        self._objects[key] = data

    def keys(self, prefix: str) -> Iterator[str]:
        yield from [key for key in list(self._objects) if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
