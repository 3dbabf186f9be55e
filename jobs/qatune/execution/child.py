"""One program in a process of its own: what it is given, and what becomes of it."""

import json
import os
import platform
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any

from qatune.config import Execute
from qatune.data.records import EXECUTION_OUTCOMES, MESSAGE_CHARACTERS, Executed
from qatune.errors import MissingInputError, UnavailableError, one_line
from qatune.execution.filters import compute_only
from qatune.execution.program import Program

OUTPUT_BYTES = 1 << 20
_FILES = 64
_START_SECONDS = 60.0
_CHUNK = 1 << 16
_HARNESS = (resources.files("qatune.execution") / "harness.py").read_text(encoding="utf-8")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
"""All of it: no credential is in it, and a set has the same order each time."""


def interpreter() -> Path:
    """Return the interpreter itself, not the link that a virtual environment has to it."""
    return Path(sys.executable).resolve()


def run(program: Program, limits: Execute, inside: Sequence[str] = ()) -> Executed:
    """Run a program to its end, or to its limits; `inside` is a command that shuts it in.

    It sees the standard library and an environment without anything of ours. Raises
    UnavailableError where the sandbox does not start it.
    """
    if not program.code.strip():
        return Executed("no_code", "")
    # S: no installed package, so that an answer has the same ones everywhere.
    command = [*inside, str(interpreter()), "-sPSB", "-c", _HARNESS]
    token = secrets.token_hex(16)
    with _started(command) as child:
        heard = _Run(child, token, limits.timeout_seconds)
        try:
            heard.talk(_job(program, limits, token))
        finally:
            child.kill()
    return heard.judged(child.returncode)


def _started(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603  # our own command
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:  # no process, no memory, no interpreter
        raise UnavailableError(f"the sandbox does not start: {error}") from None


def compute_only_here() -> bytes:
    """Return the filter for this machine; raise MissingInputError where there is none."""
    found = compute_only(platform.machine()) if sys.platform == "linux" else None
    if found is None:
        raise MissingInputError(
            f"answers cannot be run on {sys.platform} {platform.machine()}, whose kernel cannot "
            "confine them as Linux on x86_64 or aarch64 does; run evaluate there, or set "
            "data.columns.tests to null"
        )
    return found


def _job(program: Program, limits: Execute, token: str) -> bytes:
    job = {
        "token": token,
        "code": program.code,
        "tests": program.tests,
        "seconds": limits.timeout_seconds,
        "memory": limits.memory_mb << 20,
        "files": _FILES,
        "filter": compute_only_here().hex(),
    }
    return json.dumps(job).encode()


class _Run:
    """The talk with one child. Its clock starts when the program does."""

    def __init__(self, child: "subprocess.Popen[bytes]", token: str, seconds: float) -> None:
        self._child, self._token, self._seconds = child, token.encode(), seconds
        self._said, self._printed, self._last_words = b"", 0, b""
        self._stopped: Executed | None = None

    def talk(self, job: bytes) -> None:
        """Give it its job, and listen until it has ended or has to."""
        rest, started, deadline = memoryview(job), False, time.monotonic() + _START_SECONDS
        with selectors.DefaultSelector() as pipes:
            for pipe, event in self._pipes():
                os.set_blocking(pipe.fileno(), False)
                pipes.register(pipe, event)
            while pipes.get_map() and self._stopped is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._stopped = Executed("timeout", f"after {self._seconds:g} s")
                    break
                for key, _ in pipes.select(left):
                    if key.fileobj is self._child.stdin:
                        rest = self._give(rest, pipes)
                    else:
                        self._hear(key.fileobj, pipes)
                if self._began and not started:
                    started, deadline = True, time.monotonic() + self._seconds

    def _pipes(self) -> list[tuple[IO[bytes], int]]:
        stdin, stdout, stderr = self._child.stdin, self._child.stdout, self._child.stderr
        assert stdin
        assert stdout
        assert stderr
        reads = selectors.EVENT_READ
        return [(stdin, selectors.EVENT_WRITE), (stdout, reads), (stderr, reads)]

    @property
    def _began(self) -> bool:
        return self._said.startswith(self._token + b"\n")

    def _give(self, rest: memoryview, pipes: selectors.BaseSelector) -> memoryview:
        """Write what the pipe takes; its end tells the child that this is all."""
        stdin = self._child.stdin
        assert stdin
        try:
            rest = rest[os.write(stdin.fileno(), rest) :]
        except BlockingIOError:
            return rest
        except BrokenPipeError:
            rest = rest[:0]
        if not rest:
            pipes.unregister(stdin)
            stdin.close()
        return rest

    def _hear(self, pipe: Any, pipes: selectors.BaseSelector) -> None:
        try:
            data = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return
        if not data:
            pipes.unregister(pipe)
        elif pipe is self._child.stdout:
            self._said += data
        else:
            self._last_words = (self._last_words + data)[-1000:]
        self._printed += len(data)
        if self._printed > OUTPUT_BYTES:
            self._stopped = Executed("output", f"more than {OUTPUT_BYTES >> 20} MiB")

    def judged(self, code: int) -> Executed:
        """Say what became of the program; raise UnavailableError if it was never begun."""
        if not self._began:
            said = one_line(self._last_words.decode(errors="replace"))[-MESSAGE_CHARACTERS:]
            raise UnavailableError(f"the sandbox does not start: {said or f'exit code {code}'}")
        return self._stopped or self._spoken() or _ended(code)

    def _spoken(self) -> Executed | None:
        """Return the outcome, which only counts with the token that the tests' end is given."""
        for line in self._said.split(b"\n")[1:]:
            token, _, said = line.partition(b" ")
            if token != self._token:
                continue
            try:
                outcome, message = json.loads(said)
            except (ValueError, TypeError):
                return None
            if outcome in EXECUTION_OUTCOMES and isinstance(message, str):
                return Executed(outcome, one_line(message)[:MESSAGE_CHARACTERS])
        return None


def _ended(code: int) -> Executed:
    """Judge a program that ended before its tests did; 128 and more is a shell's word for it."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGXCPU:
        return Executed("timeout", "of computing time")
    if number in set(signal.Signals):
        return Executed("error", f"ended by {signal.Signals(number).name}")
    return Executed("error", f"ended itself before the tests did, with exit code {code}")
