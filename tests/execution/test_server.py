"""The sandbox that is reached by HTTP: what it bounds, how it ends, and how it is waited for."""

import http.client
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest
from tests.support.qatune_command import QATUNE, fails
from tests.support.sandboxed import LIMITS, programs, serving
from tests.support.waiting import wait_for

from qatune.data.records import Executed
from qatune.errors import UnavailableError, UsageError
from qatune.execution import ending, remote, wire
from qatune.execution.program import Program
from qatune.execution.remote import RemoteSandbox

PASSES = Program("x = 1", "assert x == 1")


def asked(url, method, path, body=None, headers=None):
    host, _, port = url.removeprefix("http://").partition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
        connection.request(method, path, body, headers or {})
        return connection.getresponse().status


def test_it_refuses_what_no_evaluate_asks():
    with serving() as url:
        good = wire.request(PASSES, LIMITS)
        assert asked(url, "POST", "/run", good) == 200
        assert asked(url, "POST", "/other", good) == 404
        assert asked(url, "POST", "/run", b"{}") == 400
        assert asked(url, "POST", "/run", good[:-9]) == 400
        assert asked(url, "POST", "/run", headers={"Content-Length": str(9 << 20)}) == 413
        assert asked(url, "POST", "/run", headers={"Content-Length": "-1"}) == 400
        assert asked(url, "PUT", "/run") == 501
        assert RemoteSandbox.reached(url, 5).run(PASSES, LIMITS).outcome == "passed"


def test_no_more_programs_run_than_it_says():
    loops = Program("while True: pass", "")
    with serving(parallel=2) as url:
        sandbox = RemoteSandbox.reached(url, 5)
        assert sandbox.parallel == 2
        threads = [threading.Thread(target=sandbox.run, args=(loops, LIMITS)) for _ in range(5)]
        for thread in threads:
            thread.start()
        most = 0
        while any(thread.is_alive() for thread in threads):
            most = max(most, len(programs()))
            time.sleep(0.05)
        assert most == 2


def test_a_program_that_is_too_long_is_not_sent():
    with serving() as url:
        found = RemoteSandbox.reached(url, 5).run(Program("#" * (9 << 20), ""), LIMITS)
    assert found == Executed("error", "longer than 8 MiB")


@contextmanager
def command(port):
    line = [str(QATUNE), "sandbox", "--port", str(port), "--parallel", "1"]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_the_command_ends_when_it_is_told(port):
    with command(port) as process:
        assert RemoteSandbox.reached(f"http://127.0.0.1:{port}", 30).parallel == 1
        ending.end(f"http://127.0.0.1:{port}")
        assert process.wait(timeout=10) == 0
    ending.end(f"http://127.0.0.1:{port}")  # nobody is there: no matter


def test_it_is_waited_for_and_asked_again_when_it_was_killed(port, monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.1)
    url, found = f"http://127.0.0.1:{port}", []
    sleeps = Program("import time; time.sleep(1)", "")

    def evaluate():
        sandbox = RemoteSandbox.reached(url, 30)
        found.append(sandbox.run(sleeps, LIMITS).outcome)

    thread = threading.Thread(target=evaluate)
    thread.start()
    time.sleep(0.5)  # nobody is there yet
    with command(port) as first:
        wait_for("the program", 30, programs)
        first.kill()
    wait_for("the program's end", 10, lambda: not programs())
    with command(port):
        thread.join(60)
    assert found == ["passed"]


def test_patience_has_an_end(port):
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}.*refused"):
        RemoteSandbox.reached(f"http://127.0.0.1:{port}", 0.5)


def test_what_a_sandbox_says_is_not_trusted():
    spoiled = b'{"outcome": "failed", "message": "a\\n\\u001b[2J' + b"x" * 500 + b'"}'
    message = wire.executed(spoiled).message
    assert message.isprintable()
    assert len(message) == 200
    with pytest.raises(ValueError, match="not what a sandbox"):
        wire.executed(b'{"outcome": "won", "message": ""}')


@pytest.mark.parametrize("url", ["http://", "http://host", "http://:80", "http://host:x"])
def test_an_address_is_whole(url):
    with pytest.raises(UsageError, match="http://host:port"):
        RemoteSandbox.reached(url, 1)


@pytest.mark.parametrize("parallel", [b'"many"', b"0", b"-1", b"65", b"1000000000", b"null"])
def test_an_odd_server_is_not_believed(port, parallel):
    def serve(server):
        with suppress(OSError):  # closed at the end
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"parallel": ' + parallel + b"}")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        with pytest.raises(UnavailableError, match="not what a sandbox of this version says"):
            RemoteSandbox.reached(f"http://127.0.0.1:{server.getsockname()[1]}", 0.3)


def test_a_server_offers_no_more_than_is_believed():
    assert wire.greeted(wire.greeting(64)).parallel == 64
    assert "is not in the range 1<=x<=64" in fails(64, "sandbox", "--parallel", "65")


def test_its_memory_is_closed_to_programs():
    """They run under the same user; the cluster's test looks from inside."""
    script = (
        "import ctypes\n"
        "from qatune.execution.server import _close_to_programs\n"
        "_close_to_programs()\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"0\n"
