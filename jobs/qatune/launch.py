"""Training in several processes: start those of this machine, and bring their ends to one.

A process finds its place in torchrun's variables, so torchrun can start them, too. It is not
what the command itself uses: torchrun forgets exit codes when SIGTERM comes, is deaf to it while
it waits for other machines, and kills what still saves 30 s after the first process has ended.
"""

import ctypes
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from qatune.errors import InterruptedRunError, QatuneError, UsageError

# Where a process of a group leaves its last words; whoever started it says them.
LAST_WORDS = "QATUNE_LAST_WORDS"
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# When one process has failed, the others find out by themselves and save what they have.
_GRACE_SECONDS = 600.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Place:
    """One process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    host: str = "localhost"
    port: int = 0
    timeout: float = 900.0
    """Seconds that it waits for the others to come."""
    hosted: bool = False
    """Whether the store at which all meet is there already, as with torchrun."""
    start: int = 0
    """How often torchrun has started all of them again."""

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}"


@dataclass(frozen=True)
class Group:
    """The processes to start here, and the machines that have the others."""

    nodes: int
    processes: int
    """On each machine."""
    node: int
    host: str | None
    port: int | None

    def __post_init__(self) -> None:
        if self.node >= self.nodes:
            raise UsageError(
                f"--node-rank {self.node}: of {self.nodes} machines the last is {self.nodes - 1}"
            )
        if self.nodes > 1 and not (self.host and self.port):
            raise UsageError(
                f"--nodes {self.nodes}: the machines have to know where to meet: give each "
                "--master-addr and --master-port of the first"
            )

    @property
    def size(self) -> int:
        return self.nodes * self.processes

    def places(self) -> list[Place]:
        host, port = self.host or "localhost", self.port or _free_port()
        return [
            Place(self.node * self.processes + local, self.size, local, host, port)
            for local in range(self.processes)
        ]


def own_place(timeout: float) -> Place | None:
    """Take the place that whoever started this process has given it; None without one.

    It is taken out of the environment: transformers would make groups of its own by it. And from
    now on the process sees one GPU.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    given = {name: os.environ.pop(name, "") for name in _PLACE}
    try:
        rank, size, local_rank = (int(given[name] or 0) for name in _PLACE[:3])
        port = int(given["MASTER_PORT"])
        start = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
    except ValueError:
        raise UsageError(f"not a place among processes: {given}") from None
    _see_one_gpu(os.environ, local_rank)
    _end_with_parent()
    return Place(rank, size, local_rank, given["MASTER_ADDR"], port, timeout, hosted, start)


def _see_one_gpu(environment: MutableMapping[str, str], local_rank: int) -> None:
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        environment["CUDA_VISIBLE_DEVICES"] = str(local_rank)
        return
    names = visible.split(",")
    environment["CUDA_VISIBLE_DEVICES"] = names[local_rank] if local_rank < len(names) else ""


def _end_with_parent() -> None:
    """Save and stop when the starter is killed: nobody else would tell this process."""
    if os.environ.get(LAST_WORDS) and platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
    return port


@dataclass(frozen=True)
class Ended:
    """How one process came to its end."""

    place: Place
    code: int
    """As Popen has it: -9 for SIGKILL."""
    words: str


def train_together(group: Group, arguments: Sequence[str]) -> tuple[int, str]:
    """Run `qatune ARGUMENTS` in each process of this machine; return exit code and message."""
    with tempfile.TemporaryDirectory(prefix="qatune-launch-") as folder, ExitStack() as stack:
        running = [
            _Process(place, Path(folder) / str(place.rank), arguments, group.processes)
            for place in group.places()
        ]
        stack.enter_context(_passing_signals_on(running))
        for process in running:
            stack.callback(process.kill)
            process.start()
        return outcome(_ends(running))


@dataclass
class _Process:
    place: Place
    last_words: Path
    arguments: Sequence[str]
    neighbours: int
    asked_to_stop: bool = False
    _running: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        place = self.place
        environment = os.environ | {
            "RANK": str(place.rank),
            "WORLD_SIZE": str(place.size),
            "LOCAL_RANK": str(place.local_rank),
            "MASTER_ADDR": place.host,
            "MASTER_PORT": str(place.port),
            LAST_WORDS: str(self.last_words),
        }
        environment.setdefault("OMP_NUM_THREADS", str(_threads(self.neighbours)))
        self._running = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-m", "qatune", *self.arguments],
            env=environment,
            process_group=0,  # Ctrl-C comes to the starter alone, which passes it on
        )
        if self.asked_to_stop:
            self._running.terminate()

    def signal(self, number: int) -> None:
        self.asked_to_stop = True
        if self._running:
            self._running.send_signal(number)

    def kill(self) -> None:
        if self._running:
            self._running.kill()
            self._running.wait()

    def ended(self) -> Ended | None:
        assert self._running is not None
        code = self._running.poll()
        if code is None:
            return None
        said = self.last_words.is_file()
        return Ended(self.place, code, self.last_words.read_text("utf-8") if said else "")


def _threads(neighbours: int) -> int:
    return max((os.cpu_count() or 1) // neighbours, 1)


@contextmanager
def _passing_signals_on(running: Sequence[_Process]) -> Iterator[None]:
    def pass_on(number: int, _: FrameType | None) -> None:
        for process in running:
            process.signal(number)

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ends(running: Sequence[_Process]) -> list[Ended]:
    """Wait for all; return how they ended, in that order."""
    left, ended, deadline = list(running), list[Ended](), float("inf")
    while left and time.monotonic() < deadline:
        for process in list(left):
            if found := process.ended():
                left.remove(process)
                ended.append(found)
        if deadline == float("inf") and any(end.code for end in ended):
            deadline = time.monotonic() + _GRACE_SECONDS
            for process in left:
                if not process.asked_to_stop:  # a second signal would cut its saving short
                    process.signal(signal.SIGTERM)
        time.sleep(0.1)
    return ended


def outcome(ended: Sequence[Ended]) -> tuple[int, str]:
    """Choose what the end of all is: of the failures the one that says most.

    A known cause comes before an interruption, which others may have by that very cause; and
    that before a loss of the others, or a death without a word.
    """
    failures = [end for end in ended if end.code]
    if not failures:
        return 0, ""
    first = min(failures, key=lambda end: _weight(end.code))
    if first.code < 0:
        return _of_signal(first)
    return first.code, first.words or f"{first.place} ended with exit code {first.code}"


def _weight(code: int) -> int:
    if code == InterruptedRunError.exit_code:
        return 1
    if code == QatuneError.exit_code:
        return 3
    return 0 if code in {kind.exit_code for kind in QatuneError.__subclasses__()} else 2


def _of_signal(end: Ended) -> tuple[int, str]:
    number = -end.code
    text = f"{end.place} was ended by {signal.Signals(number).name}"
    if number == signal.SIGKILL:
        return QatuneError.exit_code, f"{text}; out of memory, perhaps"
    if number in _SIGNALS:
        return 128 + number, f"{text}; run the same command again"
    return QatuneError.exit_code, text
