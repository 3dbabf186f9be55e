"""A store whose caller is killed at a call of a certain number, before it or after it."""

import os
import signal
import threading
from pathlib import Path
from typing import NamedTuple


class Kill(NamedTuple):
    """SIGKILL at the call of this number, from 1; `after` it has had its effect."""

    call: int
    after: bool


class MortalStore:
    """Passes every call on, and counts it. With no kill it writes the count to `counted`."""

    def __init__(self, store, kill: Kill | None, counted: Path):
        self._store, self._kill, self._counted = store, kill, counted
        self._calls, self._lock = 0, threading.Lock()
        self.uri, self.notes = store.uri, store.notes

    def _call(self, name, *arguments, **named):
        with self._lock:
            self._calls += 1
            number = self._calls
            self._counted.write_text(str(number))
        if self._kill == (number, False):
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return getattr(self._store, name)(*arguments, **named)
        finally:  # an answer may be an error, such as that nothing is there
            if self._kill == (number, True):
                os.kill(os.getpid(), signal.SIGKILL)

    def stat(self, key):
        return self._call("stat", key)

    def read(self, key, start=0, length=None, *, etag=None):
        return self._call("read", key, start, length, etag=etag)

    def create(self, key, source):
        return self._call("create", key, source)

    def replace(self, key, data):
        return self._call("replace", key, data)

    def keys(self, prefix):
        yield from self._call("keys", prefix)

    def delete(self, key):
        return self._call("delete", key)
