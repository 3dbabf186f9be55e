"""Hash a file while it is read."""

import hashlib
import io
from typing import BinaryIO

_CHUNK = 1 << 20


class HashedFile(io.RawIOBase):
    """A file whose SHA-256 is known once all of it was read.

    With `whole` it is hashed at once, for a reader that jumps about in it. Closing it leaves the
    file below open.
    """

    def __init__(self, file: BinaryIO, *, whole: bool = False) -> None:
        self._file, self._whole = file, whole
        self._sha256 = hashlib.sha256()
        self.position = 0
        """Bytes hashed so far."""
        if whole:
            self._hash_rest()
            file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._whole

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if not self._whole:
            raise io.UnsupportedOperation("seek")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell() if self._whole else self.position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        if not self._whole:
            self._take(data)
        return len(data)

    def finish(self) -> tuple[str, int]:
        """Read what is left; return SHA-256 in hex and the size in bytes."""
        if not self._whole:
            self._hash_rest()
        return self._sha256.hexdigest(), self.position

    def _hash_rest(self) -> None:
        while data := self._file.read(_CHUNK):
            self._take(data)

    def _take(self, data: bytes) -> None:
        self._sha256.update(data)
        self.position += len(data)
