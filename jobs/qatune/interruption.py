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

    def __init__(self) -> None:
        self._signal: int | None = None
        self._told = False

    @property
    def requested(self) -> bool:
        """Whether a signal came; says so the first time.

        The handler may not: it can come in the middle of a log line, whose lock it would wait for.
        """
        if self._signal is not None and not self._told:
            self._told = True
            name = signal.Signals(self._signal).name
            log.get().warning(f"{name}: saving what is done; a second one ends at once")
        return self._signal is not None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number


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
