"""A small S3 server that does not check signatures and misbehaves when it is told to.

The layer of faults between the product and a store: tests/support/misbehaviour.py draws them.
"""

import hashlib
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Fault:
    """What happens to the next `times` requests of this method, probes of the store aside."""

    method: str
    status: int | None = None
    code: str = "Fault"
    keep: int | None = None
    """Bytes of the body that are sent before the connection ends."""
    after: bool = False
    """The request is carried out first, then answered with the error."""
    reset: bool = False
    """The connection is reset in place of an answer."""
    silent: float = 0.0
    """Seconds without an answer; then the connection ends."""
    trickle: float = 0.0
    """Seconds between any two hundredths of the body."""
    stale: bool = False
    """A listing is the one of some writes before."""
    call: Callable[[], None] | None = None
    """Something that happens elsewhere in the meantime."""
    times: int = 1


@dataclass
class FaultyS3:
    endpoint: str
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    conditional: bool = True
    """Whether If-None-Match is heeded."""
    skew: float = 0.0
    """Seconds that the server's clock is ahead."""
    plan: Callable[[str, str], Fault | None] | None = None
    """Draws the fault of a request from its method and key; `faults` come first."""
    earlier: deque[list[str]] = field(default_factory=lambda: deque(maxlen=5))
    """The names that there were before each of the last writes."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and key of every request."""
    headers: list[dict[str, str]] = field(default_factory=list)

    def count(self, method: str, key: str) -> int:
        return self.asked.count((method, key))


@contextmanager
def running():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.s3 = FaultyS3(f"http://127.0.0.1:{server.server_port}")
    server.lock = threading.Lock()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Be quiet."""

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_HEAD(self):
        self._handle()

    def do_GET(self):
        self._handle()

    def do_PUT(self):
        self._handle()

    def do_DELETE(self):
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
        with self.server.lock:
            self.server.s3.asked.append((self.command, key))
            self.server.s3.headers.append(dict(self.headers))
            fault = self._fault(key) or Fault(self.command)
            if fault.after or not (fault.status or fault.reset or fault.silent):
                answer = self._carried_out(key, body, stale=fault.stale)
        if fault.call:
            fault.call()
        if fault.reset or fault.silent:
            self._break_off(fault)
            return
        if fault.status:
            answer = fault.status, _error(fault.code), {}
        self._say(*answer, keep=fault.keep, trickle=fault.trickle)

    def _fault(self, key: str) -> Fault | None:
        s3 = self.server.s3
        for fault in s3.faults:
            if fault.times and fault.method == self.command and "probe" not in key:
                fault.times -= 1
                return fault
        if self._skewed():
            return Fault(self.command, 403, "RequestTimeTooSkewed")
        return s3.plan(self.command, key) if s3.plan else None

    def _skewed(self) -> bool:
        """Whether the clocks differ by more than the 15 minutes that S3 allows."""
        sent = datetime.strptime(self.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return abs(sent.timestamp() - time.time() - self.server.s3.skew) > 900

    def date_time_string(self, timestamp=None):
        """The time by the server's own clock."""
        return super().date_time_string(timestamp or time.time() + self.server.s3.skew)

    def _break_off(self, fault: Fault) -> None:
        time.sleep(fault.silent)
        # Without lingering the system sends a reset in place of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _carried_out(
        self, key: str, body: bytes, *, stale: bool
    ) -> tuple[int, bytes, dict[str, str]]:
        objects = self.server.s3.objects
        if self.command in {"PUT", "DELETE"}:
            self.server.s3.earlier.append(list(objects))
        if self.command == "PUT":
            wanted = self.headers.get("If-None-Match") == "*" and self.server.s3.conditional
            if wanted and key in objects:
                return 412, _error("PreconditionFailed"), {}
            objects[key] = body
            return 200, b"", {"ETag": _etag(body)}
        if self.command == "DELETE":
            objects.pop(key, None)
            return 204, b"", {}
        if "list-type" in self.path:
            return 200, self._listing(stale=stale), {"Content-Type": "application/xml"}
        if key and key not in objects:
            return 404, _error("NoSuchKey"), {}
        return self._found(objects[key]) if key else (200, b"", {})

    def _found(self, data: bytes) -> tuple[int, bytes, dict[str, str]]:
        headers = {"ETag": _etag(data)}
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            return 412, _error("PreconditionFailed"), {}
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return 200, data, headers
        start, end = int(wanted[1]), int(wanted[2] or len(data))
        headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
        return 206, data[start : end + 1], headers

    def _listing(self, *, stale: bool) -> bytes:
        s3 = self.server.s3
        names = s3.earlier[0] if stale and s3.earlier else list(s3.objects)
        prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
        sizes = {key: len(s3.objects.get(key, b"")) for key in names}
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{sizes[key]}</Size></Contents>"
            for key in sorted(names)
            if key.startswith(prefix)
        )
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        )

    def _say(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str],
        *,
        keep: int | None,
        trickle: float,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(data[:keep], trickle)
        self.close_connection = self.close_connection or keep is not None

    def _send_body(self, data: bytes, trickle: float) -> None:
        piece = max(len(data) // 100, 1) if trickle else max(len(data), 1)
        for start in range(0, len(data), piece):
            self.wfile.write(data[start : start + piece])
            time.sleep(trickle)


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
