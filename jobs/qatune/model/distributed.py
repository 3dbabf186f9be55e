"""Several processes that train one adapter: how they meet, agree, and notice a loss.

Gradients are summed here rather than by DistributedDataParallel. That would send the frozen model
around at the start, want each process to have a share of each batch, and average where a sum is
meant; an adapter's gradients are small, and one sum a step is all there is to do.
"""

import hashlib
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from qatune import log
from qatune.errors import QatuneError, UnavailableError, UsageError
from qatune.launch import Place
from qatune.model import devices

T = TypeVar("T")

# A process that has died closes its connections, which is noticed at once. This is for one whose
# machine has vanished, and longer than any save of the first process takes.
_TIMEOUT = timedelta(minutes=30)
_POLL_SECONDS = 0.2
_RETRY_SECONDS = 2.0
_CONNECT_SECONDS = 5.0


class LostPeerError(QatuneError):
    """Another process of the group has ended, or cannot be reached."""


class Peers:
    """The processes that train together, as one of them sees them. Alone, each answer is its own.

    What all must know is summed through gloo: it notices a process that has died, where NCCL
    would wait for it.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this is the one that writes to the store."""
        return self.rank == 0

    def totals(self, *counts: int) -> list[int]:
        """Add each count up over all processes."""
        together = torch.tensor(counts, dtype=torch.int64)
        self.add(together)
        return [int(total) for total in together.tolist()]

    def most(self, count: int) -> int:
        """Return the largest count of any process."""
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = count
        self.add(counts)
        return int(counts.max())

    def add(self, tensor: Tensor) -> None:
        """Put into `tensor` the sum over all processes."""
        if self.size == 1:
            return
        with _reaching(self.size):
            _all_are_there(tensor)
            distributed.all_reduce(tensor)

    def share(self, tensor: Tensor) -> None:
        """Put into `tensor` what the first process has in it."""
        if self.size > 1:
            with _reaching(self.size):
                _all_are_there(tensor)
                distributed.broadcast(tensor, src=0)

    def told(self, value: T) -> T:
        """Return what the first process gives here."""
        if self.size == 1:
            return value
        values = [value]
        with _reaching(self.size):
            distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, a model is computed that is divided over the processes."""
        try:
            yield
        except RuntimeError as error:
            of_nccl = isinstance(error, distributed.DistBackendError)
            if of_nccl or "gloo" in str(error):
                raise _lost(self.size, error) from error
            raise

    def wait(self) -> None:
        """Return when all have come here. Unlike the others it heeds signals while it waits."""
        if self.size == 1:
            return
        with _reaching(self.size):
            work = distributed.all_reduce(torch.zeros(1), async_op=True)
            while not work.is_completed():
                time.sleep(_POLL_SECONDS)
            work.wait()


def _all_are_there(tensor: Tensor) -> None:
    """Before NCCL takes a tensor: it would wait for a process that is gone."""
    if tensor.is_cuda:
        distributed.all_reduce(torch.zeros(1))


@contextmanager
def _reaching(size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _lost(size, error) from error


def _lost(size: int, error: RuntimeError) -> LostPeerError:
    log.get().debug("group lost", reason=str(error))
    return LostPeerError(
        f"another of the {size} processes that train together has ended or cannot be reached"
    )


def join(place: Place, over: Callable[[], bool]) -> Peers | None:
    """Meet the other processes, and become one of them; None if all is `over` meanwhile."""
    if place.size == 1:
        return Peers()
    met = _meet(place, over)
    if met is None:
        return None
    roll, store = met
    _check_devices([device for _, device in roll])
    group = hashlib.sha256(json.dumps(roll).encode()).hexdigest()
    backend = "cpu:gloo,cuda:nccl" if devices.device() == "cuda" else "gloo"
    with _reaching(place.size):
        distributed.init_process_group(
            backend,
            store=distributed.PrefixStore(group, store),
            rank=place.rank,
            world_size=place.size,
            timeout=_TIMEOUT,
        )
    log.get().info("all processes are here", processes=place.size, backend=backend)
    return Peers(place.rank, place.size)


def _check_devices(kinds: Sequence[str]) -> None:
    if len(set(kinds)) > 1:
        raise UsageError(
            f"process {kinds.index('cpu')} of {len(kinds)} has no GPU and process "
            f"{kinds.index('cuda')} has one: --processes must be the number of GPUs of each machine"
        )


Ticket = tuple[str, str]
"""An id of this start of the process, and the kind of its device."""
Roll = list[Ticket]


def _meet(place: Place, over: Callable[[], bool]) -> tuple[Roll, distributed.Store] | None:
    """Wait until all processes are here at once; return their tickets by rank, and a store.

    None if all is `over`: whoever was lost while the first one wrote the result need not wait.

    One that is started again may still find the store of those that are about to end, or be on a
    roll as the one that it replaces. So the roll holds only when each on it has confirmed it, and
    whoever is not on it comes again.
    """
    deadline = time.monotonic() + place.timeout
    ticket = (uuid.uuid4().hex, devices.device())
    reason = ""
    while time.monotonic() < deadline:
        try:
            store = _store(place)
            if roll := _roll(store, place, ticket, deadline):
                return roll, store
        except (OSError, RuntimeError) as error:
            reason = f": {type(error).__name__}: {' '.join(str(error).split())}"
            log.get().debug("not met yet", reason=reason)
        if over():
            return None
        time.sleep(_RETRY_SECONDS)
    raise UnavailableError(
        f"{place} waited {place.timeout:g} s at "
        f"{place.host}:{place.port} for the others{reason[:200]}"
    )


def _store(place: Place) -> distributed.Store:
    """Open the store where all meet; the first process holds it."""
    hold = place.rank == 0 and not place.hosted
    # A name of its own may take a while to be known; and what cannot be reached is tried without
    # the warnings that torch would write.
    host = "localhost" if hold else place.host
    if not hold:
        socket.create_connection((host, place.port), timeout=_CONNECT_SECONDS).close()
    store = distributed.TCPStore(
        host,
        place.port,
        is_master=hold,
        timeout=timedelta(seconds=_CONNECT_SECONDS),
        wait_for_workers=False,
    )
    # torchrun's outlives those that it starts again.
    return distributed.PrefixStore(f"start-{place.start}", store)


def _roll(store: distributed.Store, place: Place, ticket: Ticket, deadline: float) -> Roll | None:
    """Come to an agreement on who is here; None if the others did without this process."""
    store.set(f"here/{place.rank}", json.dumps(ticket))
    while not store.check(["agreed"]):
        if place.rank == 0:
            _call_the_roll(store, place, deadline)
        if store.check(["roll"]):
            text = store.get("roll")
            if ticket in _tickets(text):
                store.set(_confirmation(text, place.rank), "yes")
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_SECONDS)
    roll = _tickets(store.get("agreed"))
    return roll if ticket in roll else None


def _call_the_roll(store: distributed.Store, place: Place, deadline: float) -> None:
    everyone = range(place.size)
    missing = [rank for rank in everyone if not store.check([f"here/{rank}"])]
    if missing:
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"of {place.size} processes that train together these did not come within "
                f"{place.timeout:g} s: {', '.join(map(str, missing))}"
            )
        return
    text = json.dumps([json.loads(store.get(f"here/{rank}")) for rank in everyone]).encode()
    store.set("roll", text)
    if all(store.check([_confirmation(text, rank)]) for rank in everyone):
        store.set("agreed", text)


def _tickets(text: bytes) -> Roll:
    return [(name, device) for name, device in json.loads(text)]


def _confirmation(roll: bytes, rank: int) -> str:
    return f"confirmed/{hashlib.sha256(roll).hexdigest()}/{rank}"
