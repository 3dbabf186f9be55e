"""SIGTERM and SIGINT: finish what is at hand, save, stop. A second one ends at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from qatune import log

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Tells a loop whether it was asked to stop."""

    requested = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        name = signal.Signals(number).name
        log.get().warning(f"{name}: saving what is done; a second one ends at once")


@contextmanager
def watched() -> Iterator[Interruption]:
    """Watch for signals inside. Outside of the main thread Python delivers none."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption._on_signal) for number in _SIGNALS}  # noqa: SLF001 - its own module
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
