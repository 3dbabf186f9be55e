"""Whether objects are what a manifest says of them, byte for byte."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from qatune.errors import MissingInputError
from qatune.store.objects import CHUNK_BYTES, NoSuchObjectError, ObjectRef, Stat, Store
from qatune.store.ranges import open_ranged

_AT_ONCE = 4  # each holds up to five blocks of 8 MiB
_ADVICE = "bring it back from a copy, or start again under another --run"


def fault(store: Store, key: str, what: str) -> MissingInputError:
    """Say of an object what is wrong with it, and what to do."""
    return MissingInputError(f"{store.uri}/{key}: {what}; {_ADVICE}")


def check(store: Store, refs: Iterable[ObjectRef]) -> None:
    """Hash objects of any size, several at a time; raise for the first by name that differs."""
    ordered = sorted(refs, key=lambda ref: ref.key)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(partial(_check, store), ordered):
            pass


def whole(store: Store, ref: ObjectRef) -> bytes:
    """Return what is in a small object, checked."""
    try:
        data = store.read(ref.key, 0, ref.size + 1)  # of a longer one no more than shows it
    except NoSuchObjectError:
        raise _missing(store, ref) from None
    if len(data) != ref.size:
        raise fault(store, ref.key, f"has not the {ref.size:,} bytes that its manifest says")
    _compare(store, ref, hashlib.sha256(data).hexdigest())
    return data


def lines(store: Store, ref: ObjectRef) -> Iterator[bytes]:
    """Read an object that was checked line by line, in constant memory."""
    with open_ranged(store, ref.key, stat(store, ref)) as file:
        yield from file


def _check(store: Store, ref: ObjectRef) -> None:
    found = stat(store, ref)
    if found.size != ref.size:
        what = f"has {found.size:,} bytes, and its manifest says {ref.size:,}"
        raise fault(store, ref.key, what)
    _compare(store, ref, _sha256(store, ref.key, found))


def stat(store: Store, ref: ObjectRef) -> Stat:
    """Return size and tag of an object that a manifest names."""
    found = store.stat(ref.key)
    if found is None:
        raise _missing(store, ref)
    return found


def _sha256(store: Store, key: str, version: Stat) -> str:
    if version.size <= CHUNK_BYTES:
        return hashlib.sha256(store.read(key, etag=version.etag)).hexdigest()
    sha256, piece = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    with open_ranged(store, key, version) as file:
        assert isinstance(file, io.BufferedReader)
        while read := file.readinto(piece):  # a block at once: nothing is copied twice
            sha256.update(piece[:read])
    return sha256.hexdigest()


def _compare(store: Store, ref: ObjectRef, sha256: str) -> None:
    if sha256 != ref.sha256:
        raise fault(store, ref.key, "damaged: its SHA-256 is not the one in its manifest")


def _missing(store: Store, ref: ObjectRef) -> MissingInputError:
    return fault(store, ref.key, "no such object, and a manifest names it")
