"""How a store misbehaves, drawn from a seed: what tests/support/faulty_s3.py is told to do."""

import random

from tests.support.faulty_s3 import Fault

FAULTY = 0.12
_REFUSALS = 2
_BURST = 8
"""More in a row than a client tries."""


class Misbehaviour:
    """Draws for each request whether it goes wrong, and how. Now and then nothing works."""

    def __init__(self, seed):
        self._draw = random.Random(seed)
        self._left = self._refused = 0
        self.drawn: list[str] = []

    def __call__(self, method, key):
        if "probe" in key:
            return None
        if self._left:
            self._left -= 1
            return self._named(Fault(method, 503, "SlowDown"), "outage")
        if self._draw.random() > FAULTY:
            return None
        if self._draw.random() < 0.03:
            self._left = _BURST
        kind = self._draw.choice(sorted(self._kinds(method, key)))
        return self._named(self._kinds(method, key)[kind], kind)

    def _kinds(self, method, key):
        kinds = {
            "500": Fault(method, 500, "InternalError"),
            "503": Fault(method, 503, "SlowDown"),
            "reset": Fault(method, reset=True),
            "timeout": Fault(method, silent=1.5),
        }
        if method in {"PUT", "DELETE"}:
            kinds["done, and an error"] = Fault(method, 500, "InternalError", after=True)
            kinds["done, and reset"] = Fault(method, reset=True, after=True)
        if method == "GET" and key:
            kinds["cut short"] = Fault(method, keep=self._draw.randint(0, 300))
            kinds["trickle"] = Fault(method, trickle=0.02)
        if method == "GET" and not key:
            kinds["stale"] = Fault(method, stale=True)
        if self._refused < _REFUSALS:
            kinds["403"] = Fault(method, 403, "AccessDenied")
        return kinds

    def _named(self, fault, kind):
        self._refused += kind == "403"
        self.drawn.append(kind)
        return fault
