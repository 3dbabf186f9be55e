"""Work that is the same for many items, done by several processes."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from qatune.errors import UnavailableError

Item = TypeVar("Item")
Result = TypeVar("Result")

_WORTH_IT = 1000
"""Rows that take longer than processes to start."""
_MOST = 4
"""Processes, of 150 MB each: a container sees all cores of its node."""
_PR_SET_PDEATHSIG = 1


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], *, rows: int, at_once: int = 64
) -> Iterator[Result]:
    """Yield the result of each item, in order. `work` is a function of a module.

    `rows` tells how much it is in all: little is done here. Raises UnavailableError where a process
    is killed. Call it in the main thread: the processes end with the thread that has started them.
    """
    processes = min(len(os.sched_getaffinity(0)), _MOST)
    if processes == 1 or rows < _WORTH_IT:
        yield from map(work, items)
        return
    context = get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _end_with_parent, (os.getpid(),))
    try:
        yield from pool.map(work, items, chunksize=at_once)
    except BrokenProcessPool:
        raise UnavailableError(
            f"one of {processes} processes that measure answers was killed, as it is for lack of "
            "memory: give evaluate more memory, and run the same command again"
        ) from None
    finally:
        # Who has all results, or wants no more, does not wait for what still goes on.
        pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent(parent: int) -> None:
    """Leave no process behind, however the command ends. Ctrl-C, which reaches all, is its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
