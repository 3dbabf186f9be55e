"""Let one part of a pipeline work while the next one is busy."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAKE_SECONDS = 0.1


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """Iterate in a thread of its own, at most `depth` items ahead.

    What the thread raises is raised here. It stops when the consumer does.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stopped), daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()


def mapped_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `work(item)` of each item, in order, while all cores work on the next ones.

    For work that leaves the GIL. What it raises is raised here, in the order of the items.
    """
    # One thread more than cores: a thread that waits for the GIL leaves its core to another.
    threads = len(os.sched_getaffinity(0)) + 1
    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                under_way.append(pool.submit(work, item))
                if len(under_way) > threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _produce(
    items: Iterable[Item], ready: "queue.Queue[Item | _End]", stopped: threading.Event
) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(ready, item, stopped):
                return
    except BaseException as raised:  # noqa: BLE001  # carried over to the consumer, which raises it
        error = raised
    finally:
        # A generator has to be closed in the thread that ran it.
        if hasattr(items, "close"):
            items.close()
        _put(ready, _End(error), stopped)


def _put(ready: "queue.Queue[Item | _End]", item: Item | _End, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            ready.put(item, timeout=_WAKE_SECONDS)
        except queue.Full:
            continue
        return True
    return False
