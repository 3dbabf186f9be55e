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
_SAID = [f"os error {number})" for number in sorted(_FULL)] + ["file write failed"]
"""By libraries in Rust, and by torch."""
_OF_A_DISK = _FULL | {errno.EIO, errno.EROFS, errno.ESTALE}


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that goes at the end, and watch it."""
    made = tempfile.TemporaryDirectory(prefix="qatune-", ignore_cleanup_errors=True)
    with made as name, watched(Path(name)):
        yield Path(name)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Raise UnavailableError for what the system says of files in this folder.

    And for whatever a library raises while the folder's disk is full: each has a way of its own
    to say so, and some remove what they had written.
    """
    try:
        yield
    except QatuneError:
        raise
    except Exception as error:
        reason = _reason(error, folder)
        if reason is None:
            raise
        raise UnavailableError(f"{reason}; {_ADVICE}") from error


def _reason(error: Exception, name: Path) -> str | None:
    if shutil.disk_usage(name).free < _LITTLE_BYTES or any(each in str(error) for each in _SAID):
        return f"{name}: the disk is full"
    if isinstance(error, sqlite3.OperationalError):
        return f"{name}: {error}"
    if not isinstance(error, OSError) or error.errno not in _OF_A_DISK:
        return None
    what = "the disk is full" if error.errno in _FULL else error.strerror
    return f"{error.filename or name}: {what}"
