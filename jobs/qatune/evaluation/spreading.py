"""Work that is the same for many items, done by several processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WORTH_IT = 1000
"""Rows that take longer than processes to start."""
_MOST = 4
"""Processes, of 150 MB each: a container sees all cores of its node."""


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], *, rows: int, at_once: int = 64
) -> Iterator[Result]:
    """Yield the result of each item, in order. `work` is a function of a module.

    `rows` tells how much it is in all: little is done here.
    """
    processes = min(len(os.sched_getaffinity(0)), _MOST)
    if processes == 1 or rows < _WORTH_IT:
        yield from map(work, items)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(work, items, chunksize=at_once)
