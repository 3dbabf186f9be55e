"""Try every operation that a stage needs of a store, before a stage does."""

import uuid
from collections.abc import Iterator

from qatune.errors import UnavailableError
from qatune.store.objects import Store


def probe(store: Store) -> Iterator[str]:
    """Yield a line for each operation that worked; raise the store's error for one that did not.

    What it writes it takes away again.
    """
    key = f"doctor/{uuid.uuid4().hex}"
    data = key.encode()
    try:
        yield _line(store, "writes", store.create(key, data))
        yield _line(store, "reads", store.read(key) == data)
        yield _line(store, "lists", list(store.keys("doctor/")).count(key) == 1)
        yield _line(store, "creates once", not store.create(key, data))
    finally:
        store.delete(key)
    yield _line(store, "deletes", store.stat(key) is None)
    yield from (f"store {store.uri}: {note}" for note in store.notes)


def _line(store: Store, operation: str, worked: bool) -> str:
    if not worked:
        raise UnavailableError(
            f"{store.uri}: this store does not do what it says ({operation}); use another"
        )
    return f"store {store.uri}: {operation}"
