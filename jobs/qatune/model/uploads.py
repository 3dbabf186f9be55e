"""Checkpoints on their way to the store, while training goes on."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qatune import log
from qatune.errors import UnavailableError

PATIENCE_SECONDS = 600.0
"""So long training goes on although no checkpoint reaches the store."""
_PAUSE_SECONDS = 5.0


@dataclass
class Saved:
    """How far the store is: what a restart will go on from."""

    start: int = 0
    """The step that this start of the stage went on from."""
    step: int = 0

    @property
    def moved(self) -> bool:
        return self.step > self.start


class Uploads:
    """Sends checkpoints one at a time; of those that wait for it only the newest is kept.

    `saved` hears of each that is safe in the store. A store that does not answer is asked again;
    any other failure, or that for too long, comes out of the next call.
    """

    def __init__(self, send: Callable[[int, Path], None], saved: Saved) -> None:
        self._send, self._saved = send, saved
        self._changed = threading.Condition()
        self._waiting: tuple[int, Path] | None = None
        self._sending = self._closed = False
        self._away_since: float | None = None
        self._failure: BaseException | None = None
        # A daemon: what ends the process must not wait for a store that may not answer.
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def begin(self, step: int, folder: Path) -> None:
        """Take a checkpoint over, with its folder; return at once."""
        with self._changed:
            self._raise_failure()
            superseded, self._waiting = self._waiting, (step, folder)
            self._changed.notify_all()
        if superseded:
            shutil.rmtree(superseded[1])

    def wait(self) -> None:
        """Return when all is in the store that should be."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not (self._sending or self._waiting))
            self._raise_failure()

    def end(self) -> None:
        """Return when what is being sent has arrived, or has not; send no more."""
        self.abandon()
        self._thread.join()

    def abandon(self) -> None:
        """Wait for nothing; what is being sent may arrive or not."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            try:
                self._send(*taken)
            except UnavailableError as error:
                self._bear(taken, error)
            except BaseException as error:  # noqa: BLE001 - it is the trainer's, and raised there
                self._fail(error)
            else:
                self._arrived(*taken)

    def _next(self) -> tuple[int, Path] | None:
        """Wait for a checkpoint to send; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            taken, self._waiting = self._waiting, None
            self._sending = True
            return taken

    def _arrived(self, step: int, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with self._changed:
            self._saved.step, self._away_since, self._sending = step, None, False
            self._changed.notify_all()

    def _bear(self, taken: tuple[int, Path], error: UnavailableError) -> None:
        """Put it back, unless there is a newer one; a store that is away too long is a failure."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.get().warning(
                "checkpoint not saved: trying again", step=taken[0], reason=str(error)
            )
        with self._changed:
            if self._closed or now - self._away_since > PATIENCE_SECONDS:
                self._failure, self._closed = error, True
            else:
                self._changed.wait_for(lambda: self._closed, timeout=_PAUSE_SECONDS)
                if self._waiting:
                    shutil.rmtree(taken[1], ignore_errors=True)
                else:
                    self._waiting = taken
            self._sending = False
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure, self._closed, self._sending = error, True, False
            self._changed.notify_all()


@contextmanager
def uploading(send: Callable[[int, Path], None], saved: Saved) -> Iterator[Uploads]:
    """Upload inside. A second signal, or the like, waits for nothing that is under way."""
    uploads = Uploads(send, saved)
    try:
        yield uploads
    except Exception:
        uploads.end()  # that it arrived may be what makes of a failure an interruption
        raise
    finally:
        uploads.abandon()
