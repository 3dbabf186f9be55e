"""Sandboxes of each kind, and the processes that programs leave."""

import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from qatune.config import Execute
from qatune.execution.child import interpreter
from qatune.execution.sandboxes import open_sandbox
from qatune.execution.server import Server

LIMITS = Execute(timeout_seconds=2, memory_mb=256)


@contextmanager
def serving(parallel=2):
    """Serve programs from a thread; yield the URL, and end it as evaluate's coordinator does."""
    server = Server("127.0.0.1", 0, parallel)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.end()
        thread.join()


@contextmanager
def opened(kind):
    if kind == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    if kind != "server":
        yield open_sandbox(kind, LIMITS)
        return
    with serving() as url:
        yield open_sandbox(url, LIMITS)


def programs():
    """Return the processes of this machine that run a program."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"-sPSB" in words and str(interpreter()).encode() in words:
            found.append(int(path.parent.name))
    return found
