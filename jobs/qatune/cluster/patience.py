"""How long to bear with a service that does not answer."""

import random
import time
from collections.abc import Callable

from qatune import log
from qatune.cluster.client import NoSuchObjectError
from qatune.errors import QatuneError, UnavailableError

OUTAGE_SECONDS = 300.0
"""Services come back from restarts and node repairs in less."""
START_SECONDS = 60.0
"""Helm creates objects and rights in any order; what is refused after that stays refused."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class Patience:
    """Counts from the first failure of a kind in a row, and warns of it once."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._since: float | None = None
        self._kind: type[QatuneError] | None = None
        self._pause = _FIRST_PAUSE

    def bear(self, error: QatuneError) -> None:
        """Wait a while, or raise `error` where it has lasted too long.

        A Job that is gone is waited for without end: an upgrade brings it back.
        """
        now = time.monotonic()
        if self._since is None or type(error) is not self._kind:
            self._since, self._kind, self._pause = now, type(error), _FIRST_PAUSE
            log.get().warning("trying again", reason=str(error))
        allowed = OUTAGE_SECONDS if isinstance(error, UnavailableError) else START_SECONDS
        if now - self._since > allowed and not isinstance(error, NoSuchObjectError):
            raise error
        self._sleep(random.uniform(0.5, 1) * self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def over(self) -> None:
        if self._since is not None:
            lasted = round(time.monotonic() - self._since, 1)
            log.get().info("it works again", seconds=lasted)
        self._since, self._pause = None, _FIRST_PAUSE
