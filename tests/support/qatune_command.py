"""Run the real command line in a process of its own, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

QATUNE = Path(sys.executable).with_name("qatune")


def qatune(*arguments, env=None, timeout=300):
    return subprocess.run(
        [str(QATUNE), *map(str, arguments)],
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def fails(code, *arguments, **options):
    """Run a command that must fail with `code`; return its one line, checked to be one."""
    done = qatune(*arguments, **options)
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("qatune: ")
    return last
