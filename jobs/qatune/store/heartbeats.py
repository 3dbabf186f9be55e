"""How far a stage is, as it writes it to the store every few seconds."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from qatune import log
from qatune.errors import MissingInputError, QatuneError
from qatune.log import Progress
from qatune.store.objects import NoSuchObjectError, Store

EVERY_SECONDS = 5.0
_LAST_SECONDS = 2.0
"""So long the end of the work waits for its last heartbeat to be written."""


def heartbeat(store: Store, key: str) -> dict[str, Any] | None:
    """Return what a stage at work has written of itself last; None before the first time."""
    try:
        found: dict[str, Any] = json.loads(store.read(key))
    except NoSuchObjectError:
        return None
    except ValueError:
        raise MissingInputError(f"{store.uri}/{key}: not a heartbeat that qatune wrote") from None
    return found


def earlier_heartbeat(store: Store, key: str) -> dict[str, Any] | None:
    """Return what a start before this one has written of itself last, if that can be read."""
    try:
        return heartbeat(store, key)
    except MissingInputError as error:
        log.get().warning("heartbeat not read", reason=str(error))
        return None


def lost_seconds(beat: dict[str, Any] | None, saved: int) -> float:
    """Estimate what an earlier start worked for nothing, from its last heartbeat.

    `saved` is what of its work is there. A start that was killed before its first heartbeat is
    not known of.
    """
    done, rate = (float((beat or {}).get(name) or 0) for name in ("done", "rate_per_second"))
    return max(done - saved, 0.0) / rate if rate > 0 else 0.0


@contextmanager
def beating(
    send: Callable[[bytes], None], shown: Progress, total: int | None, unit: str
) -> Iterator[Progress]:
    """Pass progress on to what shows it, and `send` it now and then, in a thread."""
    writer = _Writer(send)
    beat = _Heartbeat(writer, shown, total, unit)
    try:
        yield beat
        beat.write()
        writer.wait(_LAST_SECONDS)
    finally:
        writer.end()


class _Heartbeat:
    def __init__(self, writer: "_Writer", shown: Progress, total: int | None, unit: str) -> None:
        self._writer, self._shown, self._total, self._unit = writer, shown, total, unit
        self._done, self._before, self._start = 0, 0, time.monotonic()
        self._next = self._start + EVERY_SECONDS

    def skip(self, count: int) -> None:
        self._done += count
        self._before += count
        self._shown.skip(count)

    def advance(self, count: int = 1, **shown: float | str) -> None:
        self._done += count
        self._shown.advance(count, **shown)
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        self._next = time.monotonic() + EVERY_SECONDS
        rate = (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)
        left = None if self._total is None else max(self._total - self._done, 0)
        self._writer.write(
            {
                "done": self._done,
                "total": self._total,
                "unit": self._unit,
                "rate_per_second": round(rate, 3),
                "eta_seconds": round(left / rate, 1) if left is not None and rate else None,
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


class _Writer:
    """Sends the newest state in a thread of its own: no step waits for a store that is away."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._state: dict[str, Any] | None = None
        self._writing = self._ended = False
        threading.Thread(target=self._work, name="heartbeat", daemon=True).start()

    def write(self, state: dict[str, Any]) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Return when all is written, or after these seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._state or self._writing), seconds)

    def end(self) -> None:
        """Write no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _work(self) -> None:
        while (state := self._taken()) is not None:
            try:
                self._send(json.dumps(state).encode())
            except QatuneError as error:  # where it matters the stage meets it too
                log.get().warning("heartbeat not written", reason=str(error))

    def _taken(self) -> dict[str, Any] | None:
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._state or self._ended)
            state, self._state = self._state, None
            self._writing = not self._ended
            return None if self._ended else state
