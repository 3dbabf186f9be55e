"""Work that several processes do, and how they end."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from functools import partial

import psutil
import pytest
from tests.support import finished_run as made
from tests.support.qatune_command import QATUNE
from tests.support.waiting import wait_for

from qatune.errors import UnavailableError
from qatune.evaluation import spreading
from qatune.evaluation.spreading import spread
from qatune.store import manifests
from qatune.store.folder import FolderStore

CORES = len(os.sched_getaffinity(0))
STOPPED = """
    import os, time
    from qatune import endings
    from qatune.evaluation.spreading import spread

    os.sched_getaffinity = lambda _: {0, 1}
    endings.heed_signals()
    try:
        for _ in spread(time.sleep, [0, 600, 600, 600], rows=100_000, at_once=1):
            print("going", flush=True)
            CONSUME
    except endings.TerminatedError:
        endings.leave(endings.TERMINATED)
"""


@pytest.fixture(autouse=True)
def several_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def gone(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # nobody may wait for orphans here
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("consume", ["time.sleep(600)", "pass"])
def test_no_process_is_left_when_the_command_is_stopped(how, consume):
    script = textwrap.dedent(STOPPED).replace("CONSUME", consume)
    children = []
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as started:
        try:
            assert started.stdout.readline() == b"going\n"
            children = psutil.Process(started.pid).children(recursive=True)
            assert len(children) >= 2
            started.send_signal(how)
            assert started.wait(10) == (143 if how == signal.SIGTERM else -how)
            for child in children:
                wait_for(f"the end of {child}", 10, partial(gone, child))
        finally:
            started.kill()
            for child in children:
                if not gone(child):
                    child.kill()


def test_a_process_whose_parent_is_gone_ends():
    script = "from qatune.evaluation.spreading import _end_with_parent as end; end(1 << 30)"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_is_left_to_the_command():
    assert list(spread(signal.getsignal, [signal.SIGINT], rows=1000)) == [signal.SIG_IGN]


def kill_me(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_no_bug():
    with pytest.raises(UnavailableError, match="give evaluate more memory"):
        list(spread(kill_me, range(4), rows=1000, at_once=1))


def measuring(started):
    """Tell whether several processes do the command's work; the one that tidies up is none."""
    assert started.poll() is None, "it has ended without any"
    commands = []
    for child in psutil.Process(started.pid).children():
        with suppress(psutil.NoSuchProcess):
            commands.append(" ".join(child.cmdline()))
    return sum("spawn_main" in command for command in commands) >= 2


@pytest.mark.skipif(CORES == 1, reason="on one core nothing is spread")
def test_the_installed_command_spreads(tmp_path):
    store = FolderStore(str(tmp_path))
    rows = made.answered(spreading._WORTH_IT)
    made.answers_only(store, rows)
    command, log = [QATUNE, "evaluate", "--run", made.RUN, "--store", store.uri], tmp_path / "log"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, env=environment) as started:
        try:
            wait_for("processes that measure", 100, partial(measuring, started))
            assert started.wait(300) == 0, log.read_text()[-2000:]
        finally:
            started.kill()
    assert "Traceback" not in log.read_text()
    assert manifests.load(store, made.RUN, "evaluate")[0].counters["rows"] == len(rows)
