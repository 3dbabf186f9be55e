"""A sandbox elsewhere, which may come late, go away, and come back."""

import http.client
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from qatune import log
from qatune.config import Execute
from qatune.data.records import Executed
from qatune.errors import UnavailableError, UsageError
from qatune.execution import wire
from qatune.execution.program import Program

PATIENCE_SECONDS = 900.0
"""A cluster may have to add a node, and starts what has died later each time."""
_CONNECT_SECONDS = 10.0
_SPARE_SECONDS = 120.0
"""For the start of a program, and the way there and back."""
_PAUSE_SECONDS = 2.0
_OK = 200
_Read = TypeVar("_Read")


@dataclass
class RemoteSandbox:
    """A server that `qatune sandbox` has started."""

    host: str
    port: int
    patience: float = PATIENCE_SECONDS
    parallel: int = field(default=1, init=False)

    @classmethod
    def reached(cls, url: str, patience: float) -> "RemoteSandbox":
        """Wait until it answers; raise UnavailableError when patience is over."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port:
            raise UsageError(f"--sandbox {url}: write it as http://host:port")
        sandbox = cls(host, port, patience)
        sandbox.parallel = sandbox._asked("GET", "/", None, 0, wire.greeted).parallel
        return sandbox

    def run(self, program: Program, limits: Execute) -> Executed:
        """Have a program run there, again if the sandbox goes away; raise UnavailableError."""
        body = wire.request(program, limits)
        if len(body) > wire.BODY_BYTES:
            return Executed("error", f"longer than {wire.BODY_BYTES >> 20} MiB")
        return self._asked("POST", "/run", body, limits.timeout_seconds, wire.executed)

    def _asked(
        self,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float,
        read: Callable[[bytes], _Read],
    ) -> _Read:
        since, told = time.monotonic(), False
        while True:
            try:
                return read(self._once(method, path, body, seconds))
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = f"http://{self.host}:{self.port}: {error or type(error).__name__}"
            if time.monotonic() - since > self.patience:
                raise UnavailableError(
                    f"the sandbox does not answer: {reason}; see to it that qatune sandbox runs "
                    "there, then run the same command again"
                )
            if not told:
                log.get().info("waiting for the sandbox", reason=reason)
                told = True
            time.sleep(min(self.patience, _PAUSE_SECONDS) * random.uniform(0.5, 1))

    def _once(self, method: str, path: str, body: bytes | None, seconds: float) -> bytes:
        timeout = seconds + _SPARE_SECONDS if body else _CONNECT_SECONDS
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            data = answer.read(wire.REPLY_BYTES)
        finally:
            connection.close()
        if answer.status != _OK:
            raise OSError(f"status {answer.status}: {data[:200].decode(errors='replace')}")
        return data
