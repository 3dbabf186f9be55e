"""A folder for temporary files, whose disk may be full."""

import errno
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qatune.errors import QatuneError, UnavailableError

_ADVICE = "make room or set TMPDIR, then run the same command again"
_LITTLE_BYTES = 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}
_OF_A_DISK = _FULL | {errno.EIO, errno.EROFS, errno.ESTALE}


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that goes at the end.

    Raises UnavailableError for what the system says of files inside, and for whatever a library
    raises while the folder's disk is full: each has a way of its own to say so.
    """
    with tempfile.TemporaryDirectory(prefix="qatune-", ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        except QatuneError:
            raise
        except Exception as error:
            reason = _reason(error, name)
            if reason is None:
                raise
            raise UnavailableError(f"{reason}; {_ADVICE}") from error


def _reason(error: Exception, name: str) -> str | None:
    if shutil.disk_usage(name).free < _LITTLE_BYTES:
        return f"{name}: the disk is full"
    if isinstance(error, sqlite3.OperationalError):
        return f"{name}: {error}"
    if not isinstance(error, OSError) or error.errno not in _OF_A_DISK:
        return None
    what = "the disk is full" if error.errno in _FULL else error.strerror
    return f"{error.filename or name}: {what}"
