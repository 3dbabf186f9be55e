"""A small S3 server that does not check signatures and misbehaves when it is told to."""

import hashlib
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
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
            fault = self._fault(key)
            if fault is None or fault.status is None or fault.after:
                answer = self._carried_out(key, body)
        if fault and fault.call:
            fault.call()
        if fault and fault.status:
            answer = fault.status, _error(fault.code), {}
        self._say(*answer, keep=fault.keep if fault else None)

    def _fault(self, key: str) -> Fault | None:
        for fault in self.server.s3.faults:
            if fault.times and fault.method == self.command and "probe" not in key:
                fault.times -= 1
                return fault
        return None

    def _carried_out(self, key: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        objects = self.server.s3.objects
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
            return 200, self._listing(), {"Content-Type": "application/xml"}
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

    def _listing(self) -> bytes:
        prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.server.s3.objects.items())
            if key.startswith(prefix)
        )
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        )

    def _say(self, status: int, data: bytes, headers: dict[str, str], keep: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:keep])
        self.close_connection = self.close_connection or keep is not None


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
