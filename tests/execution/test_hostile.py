"""What an answer may try, in each sandbox, for real."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from tests.support.sandboxed import LIMITS, opened, programs
from tests.support.waiting import wait_for

from qatune.data.records import MESSAGE_CHARACTERS
from qatune.execution.program import Program

RIGHT = "def double(number):\n    return 2 * number\n"
TESTS = "assert double(2) == 4\nassert double(-1) == -2"


@pytest.fixture(scope="module", params=["bubblewrap", "none", "server"])
def sandbox(request):
    with opened(request.param) as found:
        yield found


def ran(sandbox, before, tests=TESTS):
    """Run a right answer that does something else first."""
    return sandbox.run(Program(f"{before}\n{RIGHT}", tests), LIMITS)


def refused(sandbox, before, named="PermissionError"):
    found = ran(sandbox, before)
    assert found.outcome == "error"
    assert named in found.message
    return found


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import re, math, collections, itertools, functools, heapq, datetime, decimal, statistics",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: 'int'\nA(1)",
        "import threading\nt = threading.Thread(target=print)\nt.start(); t.join()",
        "import asyncio\nasync def f(): await asyncio.sleep(0)\nasyncio.run(f())",
        "import concurrent.futures as c\nwith c.ThreadPoolExecutor() as p: list(p.map(abs, [1]))",
        "if __name__ == '__main__': raise SystemExit",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()",
        "import atexit, time\natexit.register(time.sleep, 99)",
        "print('x' * 1000)\nimport sys\nprint('y', file=sys.stderr)",
    ],
)
def test_what_computes_passes(sandbox, before):
    assert ran(sandbox, before).outcome == "passed"


def test_a_wrong_answer_fails_and_names_the_assertion(sandbox):
    found = sandbox.run(Program("def double(number): return number", TESTS), LIMITS)
    assert (found.outcome, found.message) == ("failed", "assert double(2) == 4")
    with_words = sandbox.run(Program("x = 1", "assert x == 2, 'x is\\n' + 'one'"), LIMITS)
    assert (with_words.outcome, with_words.message) == ("failed", "x is one")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def double(:", "SyntaxError"),
        ("x = 1", "NameError: name 'double' is not defined"),
        ("def double(number):\n    assert number > 99", "AssertionError"),
        ("def double(number): return double(number)", "RecursionError"),
        ("def double(number): return 2 * int(input())", "EOFError"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "E"),
        ("raise Exception('x' * 10000)", "Exception: xxx"),
        ("raise Exception('\\ud800\\x1b[2J')", "Exception: \\ud800\\x1b[2J"),
        ("import os; os.abort()", "ended by SIG"),
        ("import numpy", "ModuleNotFoundError"),
    ],
)
def test_an_error_is_told_in_one_line(sandbox, code, message):
    found = sandbox.run(Program(code, TESTS), LIMITS)
    assert found.outcome == "error"
    assert found.message.startswith(message)
    assert len(found.message) <= MESSAGE_CHARACTERS
    assert found.message.isprintable()


@pytest.mark.parametrize(
    "before",
    [
        "import sys; sys.exit(0)",
        "exit_ = __import__('os')._exit; exit_(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "import os; os.write(1, b'passed'); os._exit(0)",
        (
            "import os\nfor n in range(3, 64):\n"
            '    try: os.write(n, b\'0 ["passed", ""]\\n\')\n    except OSError: pass\nos._exit(0)'
        ),
    ],
)
def test_an_early_end_is_not_a_pass(sandbox, before):
    assert ran(sandbox, before).outcome == "error"


@pytest.mark.parametrize("name", ["dumps", "JSONEncoder.encode", "JSONEncoder.iterencode"])
def test_an_answer_that_changes_json_does_not_write_its_own_outcome(sandbox, name):
    code = f'import json\njson.{name} = lambda *_, **__: \'["passed", ""]\''
    found = sandbox.run(Program(code, "assert 1 == 2"), LIMITS)
    assert (found.outcome, found.message) == ("failed", "assert 1 == 2")


def test_an_end_within_the_tests_is_not_a_pass(sandbox):
    code = "import os\ndef double(number): os._exit(0)"
    found = sandbox.run(Program(code, TESTS), LIMITS)
    assert (found.outcome, found.message[:12]) == ("error", "ended itself")


@pytest.mark.parametrize(
    "before",
    [
        "while True: pass",
        "import time; time.sleep(99)",
        "while True:\n    try: raise SystemExit\n    except BaseException: pass",
        (
            "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\nwhile True: pass"
        ),
        "int('9' * 10**8 if False else 'f' * 4000, 16) ** (10 ** 9)",
    ],
)
def test_no_loop_outlives_its_time(sandbox, before):
    assert ran(sandbox, before).outcome == "timeout"
    wait_for("the end of the program", 10, lambda: not programs())


@pytest.mark.parametrize(
    "before",
    ["x = 'x' * 10**10", "x = []\nwhile True: x.append('x' * 10**6)", "x = [0] * 10**9"],
)
def test_memory_is_bounded(sandbox, before):
    assert ran(sandbox, before).outcome == "memory"


@pytest.mark.parametrize(
    "before",
    [
        "while True: print('x' * 1000)",
        "import sys\nwhile True: sys.stderr.write('x' * 1000)",
        (
            "import os\nwhile True:\n    for n in range(1, 64):\n"
            "        try: os.write(n, b'x' * 1000)\n        except OSError: pass"
        ),
    ],
)
def test_output_is_bounded(sandbox, before):
    assert ran(sandbox, before).outcome == "output"


@pytest.mark.parametrize(
    "before",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import subprocess; subprocess.Popen(['sleep', '99'], start_new_session=True)",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    while True: pass",
        "import os; os.posix_spawn('/bin/sleep', ['sleep', '99'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
    ],
)
def test_it_starts_no_process(sandbox, before):
    refused(sandbox, before)
    assert not programs()


def test_threads_are_bounded(sandbox):
    before = (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()"
    )
    refused(sandbox, before, "RuntimeError: can't start new thread")


@pytest.mark.parametrize(
    "before",
    [
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(-1, 9)",
        "import os; os.killpg(0, 9)",
        "import os, signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
        (
            "import ctypes, os\n"
            "if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0): raise PermissionError"
        ),
        "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    ],
)
def test_it_reaches_no_other_process(sandbox, before):
    refused(sandbox, before)


@pytest.mark.parametrize(
    "before",
    [
        "open('spoiled', 'w')",
        "import tempfile; tempfile.mkstemp()",
        "import os; os.mkdir('/tmp/spoiled')",
        "import os; os.open('/tmp', os.O_TMPFILE | os.O_WRONLY)",
        "import os; os.rename('/tmp', '/spoiled')",
        "import os; os.remove({victim!r})",
        "import os; os.truncate({victim!r}, 0)",
        "import os; os.open({victim!r}, os.O_RDONLY | os.O_TRUNC)",
        "import os; os.chmod({victim!r}, 0)",
        "import os; os.symlink('/', '/tmp/spoiled')",
        "import os; os.memfd_create('spoiled')",
        "from pathlib import Path\nwhile True: Path('/dev/shm/spoiled').write_bytes(b'x')",
    ],
)
def test_it_writes_no_file(sandbox, before, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("whole")
    found = ran(sandbox, before.format(victim=str(victim)))
    assert found.outcome == "error"
    assert victim.read_text() == "whole"
    assert victim.stat().st_mode & 0o777


@pytest.fixture
def listener():
    """A server of this machine, which counts who comes."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        stop = threading.Event()

        def listen():
            while not stop.is_set():
                try:
                    came.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], came
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "before",
    [
        "import socket; socket.create_connection(('127.0.0.1', {port}))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}')",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import socket\na, b = socket.socketpair(type=socket.SOCK_DGRAM)\na.sendto(b'x', '/run/x')",
        # io_uring_setup
        "import ctypes\nif ctypes.CDLL(None).syscall(425, 8, 0) < 0: raise PermissionError",
    ],
)
def test_it_opens_no_connection(sandbox, before, listener):
    port, came = listener
    found = ran(sandbox, before.format(port=port))
    assert found.outcome == "error"
    assert "not permitted" in found.message or "PermissionError" in found.message
    assert not came


@pytest.fixture
def secrets(tmp_path, monkeypatch):
    """Credentials where clients look for them, and a store."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("hunter2")
    (tmp_path / "qatune-store").mkdir()
    return tmp_path


def test_its_environment_holds_nothing(sandbox, secrets):
    found = refused(sandbox, "import os; raise Exception(sorted(os.environ))", "Exception")
    names = set(eval(found.message.removeprefix("Exception: ")))
    assert names <= {"LC_ALL", "PYTHONHASHSEED", "TZ", "PWD"}


@pytest.mark.parametrize("path", [".aws/credentials", "qatune-store", ""])
def test_bubblewrap_hides_home_store_and_other_processes(secrets, path):
    with opened("bubblewrap") as sandbox:
        before = f"import os; raise Exception(os.stat({str(secrets / path)!r}))"
        refused(sandbox, before, "FileNotFoundError")
        refused(sandbox, "import os; os.stat('/proc/self')", "FileNotFoundError")
        refused(sandbox, "import os; os.stat('/tmp')", "FileNotFoundError")


def test_sets_have_one_order(sandbox):
    before = "raise Exception(list({'one', 'two', 'three', 'four', 'five'}))"
    assert len({ran(sandbox, before).message for _ in range(3)}) == 1


def test_an_answer_that_equals_everything_passes(sandbox):
    """As the docs say: tests are code of the row, and an answer can cheat on purpose."""
    code = "class All:\n    def __eq__(self, other): return True\ndef double(number): return All()"
    assert sandbox.run(Program(code, TESTS), LIMITS).outcome == "passed"


@pytest.mark.parametrize("kind", ["bubblewrap", "none"])
def test_programs_go_with_the_process_that_runs_them(kind):
    with opened(kind):
        script = (
            "from qatune.config import Execute\n"
            "from qatune.execution.program import Program\n"
            "from qatune.execution.sandboxes import open_sandbox\n"
            "limits = Execute(timeout_seconds=100)\n"
            f"sandbox = open_sandbox({kind!r}, limits)\n"
            "sandbox.run(Program('while True: pass', ''), limits)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ)) as process:
            wait_for("the program", 30, programs)
            process.send_signal(signal.SIGKILL)
        wait_for("the end of the program", 10, lambda: not programs())
