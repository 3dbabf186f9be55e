"""A small Hugging Face hub on this machine: what downloading models and data sets asks for."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/revision/([^/]+)$")
_TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)$")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


@dataclass
class Repository:
    """The files of one commit, which `branch` names, too."""

    folder: Path
    branch: str = "main"
    kind: str = "models"
    gated: bool = False
    cut: int = 0
    """Answers with a file that end in the middle, as long as this is above zero."""
    broken: int = 0
    """Questions about the repository that are answered by 503."""

    @property
    def commit(self) -> str:
        return hashlib.sha1(str(self.folder).encode()).hexdigest()

    @property
    def files(self) -> dict[str, Path]:
        found = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path for path in found}


@dataclass
class Hub:
    endpoint: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Every request: method and path."""


@contextmanager
def running():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Be quiet."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.hub.asked.append(f"{self.command} {path}")
        for pattern, answer in ((_INFO, self._info), (_TREE, self._tree), (_FILE, self._file)):
            match = pattern.match(path)
            if match:
                kind, name, revision, *rest = match.groups()
                repository = self._repository(kind, name, revision)
                if repository:
                    answer(repository, name, *rest)
                return
        self._say(404)

    def _repository(self, kind: str | None, name: str, revision: str) -> Repository | None:
        """Find it, or say what is wrong."""
        repository = self.server.hub.repositories.get(name)
        if repository is None or repository.kind != (kind or "models").rstrip("/"):
            self._say(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Not found"})
        elif revision not in (repository.branch, repository.commit):
            self._say(404, {"X-Error-Code": "RevisionNotFound"})
        elif repository.broken:
            repository.broken -= 1
            self._say(503)
        else:
            return repository
        return None

    def _info(self, repository: Repository, name: str) -> None:
        siblings = [{"rfilename": each} for each in repository.files]
        self._json({"id": name, "sha": repository.commit, "siblings": siblings, "tags": []})

    def _tree(self, repository: Repository, name: str) -> None:
        self._json(
            [
                {"type": "file", "path": each, "size": path.stat().st_size, "oid": _etag(path)}
                for each, path in repository.files.items()
            ]
        )

    def _file(self, repository: Repository, name: str, file: str) -> None:
        if repository.gated and self.headers.get("Authorization") != "Bearer tests-token":
            self._say(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Restricted"})
            return
        path = repository.files.get(file)
        if path is None:
            self._say(404, {"X-Error-Code": "EntryNotFound"})
            return
        data, status = path.read_bytes(), 200
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{_etag(path)}"'}
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted:
            start, status = int(wanted[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        cut = len(data) // 2 if self.command == "GET" and repository.cut else None
        repository.cut -= cut is not None
        self._say(status, headers, data, cut)

    def _json(self, value) -> None:
        self._say(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _say(self, status: int, headers=None, data: bytes = b"", cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
        self.close_connection = self.close_connection or cut is not None


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
