"""Where programs run: shut in by bubblewrap, in this very environment, or by a server elsewhere."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from qatune.config import Execute
from qatune.data.executions import SandboxKind
from qatune.data.records import Executed
from qatune.errors import MissingInputError, UnavailableError, UsageError, one_line
from qatune.execution import child
from qatune.execution.program import Program
from qatune.execution.remote import PATIENCE_SECONDS, RemoteSandbox

_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_TRIAL = Program("import math", "assert math.tau > 6")
_FIRST_LOOK_SECONDS = 10.0
_MOST = 8
"""Programs at a time: a container may be bounded in ways that no process sees."""


class Sandbox(Protocol):
    """Runs programs, several at a time."""

    @property
    def parallel(self) -> int:
        """So many at a time."""

    def run(self, program: Program, limits: Execute) -> Executed:
        """Run one to its end. Raises UnavailableError."""


def _processors() -> int:
    """Count those that this process may use: more programs at a time would only time out."""
    return min(len(os.sched_getaffinity(0)), _MOST)


@dataclass(frozen=True)
class LocalSandbox:
    """Runs programs on this machine, each in a process of its own."""

    inside: Sequence[str] = ()
    parallel: int = field(default_factory=_processors)

    def run(self, program: Program, limits: Execute) -> Executed:
        return child.run(program, limits, self.inside)


def kind_of(name: str) -> SandboxKind:
    """Return what `bubblewrap`, `none` or `http://host:port` names; raise UsageError for others."""
    if name.startswith("http://"):
        return "server"
    if name == "bubblewrap":
        return "bubblewrap"
    if name == "none":
        return "none"
    raise UsageError(f"--sandbox {name}: say bubblewrap, none, or http://host:port")


def look_ahead(name: str, limits: Execute) -> None:
    """Find out now whether there is a sandbox that will be asked for later."""
    open_sandbox(name, limits, patience=_FIRST_LOOK_SECONDS)


def open_sandbox(name: str, limits: Execute, patience: float = PATIENCE_SECONDS) -> Sandbox:
    """Open `bubblewrap`, `none`, or `http://host:port`, and run a first program in it.

    `patience` is how long a server may not answer. Raises MissingInputError, and UnavailableError
    for a server.
    """
    kind = kind_of(name)
    if kind == "server":
        return RemoteSandbox.reached(name, patience)
    child.compute_only_here()
    sandbox = LocalSandbox(_bubblewrap() if kind == "bubblewrap" else ())
    try:
        found = sandbox.run(_TRIAL, limits)
    except UnavailableError as error:
        raise _refusal(str(error)) from None
    if found.outcome != "passed":
        raise _refusal(f"a first program ended in it with {found.outcome}: {found.message}")
    return sandbox


def _bubblewrap() -> list[str]:
    """Return the command whose inside has the interpreter, system libraries, and nothing else.

    No home, no process of others, no network, no name of this machine; root is not writable.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise _refusal("bubblewrap is not installed")
    shut = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    seen = [part for path in (*_SYSTEM, sys.base_prefix) for part in _binding(Path(path))]
    _check_starts([*shut, *seen])
    return [*shut, *seen, "--remount-ro", "/", "--chdir", "/"]


def _binding(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind-try", str(path), str(path)]


def _check_starts(command: Sequence[str]) -> None:
    """Hear what bubblewrap itself says where the kernel forbids namespaces."""
    interpreter = [str(child.interpreter()), "-sPSB", "-c", ""]
    done = subprocess.run(  # noqa: S603  # our own command
        [*command, *interpreter], capture_output=True, text=True, check=False, env={}
    )
    if done.returncode:
        raise _refusal(f"bubblewrap does not work here: {one_line(done.stderr)}")


def _refusal(reason: str) -> MissingInputError:
    return MissingInputError(
        f"answers are not run without an isolated sandbox: {reason}; install bubblewrap on a Linux "
        "that allows user namespaces, or accept by --sandbox none that answers see what you see"
    )
