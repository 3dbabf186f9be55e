"""A sandbox that is reached by HTTP: `qatune sandbox`, in a pod that has nothing.

It is as bounded as what it runs: so many requests at a time, so large, so slow. It knows no store,
and forgets a program with its outcome.
"""

import ctypes
import socket
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import BoundedSemaphore, Thread
from typing import Any

from qatune import log
from qatune.errors import QatuneError, UsageError
from qatune.execution import child, wire

_DUMPABLE = 4
_SLOW_SECONDS = 30.0
_FULL = 413
_UNKNOWN = 404
_WRONG = 400
_BROKEN = 503


class Server(HTTPServer):
    """Serves until somebody says that it is over."""

    request_queue_size = 64

    def __init__(self, host: str, port: int, parallel: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = found[0]
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UsageError(f"--host {host} --port {port}: {error.strerror}") from None
        self.parallel = parallel
        self._room = BoundedSemaphore(parallel)
        self._pool = ThreadPoolExecutor(parallel)

    def serve(self) -> None:
        """Serve to the end; what runs then is let run to its own."""
        child.compute_only_here()
        _close_to_programs()
        log.get().info("the sandbox is open", port=self.server_port, parallel=self.parallel)
        with self, self._pool:
            self.serve_forever()
        log.get().info("the sandbox is closed")

    def end(self) -> None:
        """End serving, from a request: it cannot wait for itself."""
        Thread(target=self.shutdown, daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Leave a connection in the kernel's queue until there is room for it."""
        self._room.acquire()
        self._pool.submit(self._process, request, client_address)

    def _process(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            log.get().debug("the other end went away", reason=str(error))
        finally:
            self.shutdown_request(request)
            self._room.release()


class _Handler(BaseHTTPRequestHandler):
    timeout = _SLOW_SECONDS
    server: Server

    def do_GET(self) -> None:  # http.server's name
        self._answer(200, wire.greeting(self.server.parallel))

    def do_POST(self) -> None:
        if self.path == "/end":
            self._answer(200, b"")
            self.server.end()
        elif self.path == "/run":
            self._answer(*self._ran())
        else:
            self._answer(_UNKNOWN, b"no such path")

    def _ran(self) -> tuple[int, bytes]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return _WRONG, b"no length"
        if int(length) > wire.BODY_BYTES:
            return _FULL, b"too long"
        try:
            asked = wire.requested(self.rfile.read(int(length)))
        except ValueError as error:
            return _WRONG, str(error).encode()
        try:
            return 200, wire.reply(child.run(asked.program, asked.limits))
        except QatuneError as error:
            log.get().error(str(error))
            return _BROKEN, str(error).encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing of each request: what was run is told by who asked."""


def _close_to_programs() -> None:
    """Keep this process' memory from programs, which run under the same user."""
    ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)
