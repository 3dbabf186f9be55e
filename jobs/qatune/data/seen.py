"""What was there before, for more rows than memory holds."""

import sqlite3
from collections.abc import Sequence
from hashlib import blake2b

_CACHE_KIB = 32 * 1024
_DIGEST_BYTES = 16


def digest(text: str) -> bytes:
    """128 bits: among ten billion rows, one in 10^18 files has two that collide."""
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


class SeenSet:
    """A set of digests in a private temporary database, which lies on disk where it is large."""

    def __init__(self) -> None:
        # The thread that reads rows is not the one that made the pipeline.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (f"cache_size=-{_CACHE_KIB}", "journal_mode=OFF", "synchronous=OFF"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, digests: Sequence[bytes]) -> list[bool]:
        """Add all; tell of each whether it was new, the first of equal ones being so."""
        marks = ",".join("?" * len(digests))
        query = f"SELECT digest FROM seen WHERE digest IN ({marks})"  # noqa: S608  # marks only
        old = {found for (found,) in self._database.execute(query, digests)}
        fresh = []
        for one in digests:
            fresh.append(one not in old)
            old.add(one)
        new = sorted(one for one, is_new in zip(digests, fresh, strict=True) if is_new)
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO seen VALUES (?)", ((one,) for one in new))
        self._database.execute("COMMIT")
        return fresh

    def close(self) -> None:
        self._database.close()
