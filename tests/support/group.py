"""Several `qatune train` commands that train one run together, as the pods of a Job do."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support import training
from tests.support.waiting import wait_for

QATUNE = Path(sys.executable).with_name("qatune")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def command(store, *arguments):
    return [str(QATUNE), "train", "--run", training.RUN, "--store", str(store), *arguments]


@contextmanager
def started(program, **variables):
    """Run a program with these environment variables; nothing of it is left afterwards."""
    process = subprocess.Popen(
        program,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def pods(store, count=2, **variables):
    """Start one command for each of `count` machines, all of them this one."""
    port = str(free_port())
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                started(
                    command(store), QATUNE_NODES=str(count), JOB_COMPLETION_INDEX=str(node),
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **variables,
                )
            )
            for node in range(count)
        ]  # fmt: skip


def ends(processes, timeout=120):
    """Wait for all; return each one's exit code and last line."""
    found = []
    for process in processes:
        _, errors = process.communicate(timeout=timeout)
        assert "Traceback" not in errors, errors
        found.append((process.returncode, errors.strip().splitlines()[-1]))
    return found


def child(process):
    """The one process that this one has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (pid,) = wait_for("a child", 60, lambda: children.read_text().split())
    return int(pid)
