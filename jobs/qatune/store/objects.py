"""The store as every stage sees it: named, immutable objects.

Data objects are created, never overwritten; only heartbeats are replaced. Order of listings,
renames and batch deletes are not relied upon: S3-compatible stores differ in them.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol, cast

from qatune.errors import InterruptedRunError, MissingInputError

CHUNK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Stat:
    """Size in bytes, and a tag that changes when the content does."""

    size: int
    etag: str


@dataclass(frozen=True)
class ObjectRef:
    """What a manifest says of one object. `sha256` is hex, `size` in bytes."""

    key: str
    sha256: str
    size: int


class NoSuchObjectError(MissingInputError):
    """There is no object of that name."""


class ConflictError(MissingInputError):
    """An object of that name exists with another content."""


class Store(Protocol):
    """Objects under a URI. Every method may raise UnavailableError or NotAllowedError."""

    uri: str
    notes: list[str]
    """What the store cannot do and what is done instead: recorded in manifests."""

    def stat(self, key: str) -> Stat | None:
        """Return None where there is no such object."""

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> bytes:
        """Read a range; raise NoSuchObjectError, or ConflictError where `etag` has changed."""

    def create(self, key: str, source: bytes | Path) -> bool:
        """Create the object whole or not at all; False where one exists already."""

    def replace(self, key: str, data: bytes) -> None:
        """Write over whatever is there. For heartbeats only."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Names that start with `prefix`, in any order."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""


def until(stopped: Event, store: Store) -> Store:
    """Return the store for a thread that is to end once `stopped` is set: it then refuses."""
    return cast("Store", _Until(stopped, store))


class _Until:
    def __init__(self, stopped: Event, store: Store) -> None:
        self._stopped, self._store = stopped, store

    def __getattr__(self, name: str) -> Any:
        if self._stopped.is_set():
            raise InterruptedRunError("no longer needed")
        return getattr(self._store, name)


def chunks(store: Store, key: str) -> Iterator[bytes]:
    """Read an object piece by piece, all of one version."""
    found = store.stat(key)
    if found is None:
        raise NoSuchObjectError(f"{store.uri}/{key}: no such object")
    for start in range(0, found.size, CHUNK_BYTES):
        yield store.read(key, start, min(CHUNK_BYTES, found.size - start), etag=found.etag)


def describe(store: Store, key: str) -> ObjectRef:
    """Hash an object that is already there."""
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks(store, key):
        sha256.update(chunk)
        size += len(chunk)
    return ObjectRef(key, sha256.hexdigest(), size)


def describe_source(key: str, source: bytes | Path) -> ObjectRef:
    """Hash bytes or a file that are to become the object `key`."""
    if isinstance(source, bytes):
        return ObjectRef(key, hashlib.sha256(source).hexdigest(), len(source))
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ObjectRef(key, sha256, source.stat().st_size)


def create_once(store: Store, key: str, source: bytes | Path) -> ObjectRef:
    """Create an object; one that is already there must be equal.

    So a stage that starts again, or two that race, can only agree: ConflictError otherwise.
    """
    ours = describe_source(key, source)
    if not store.create(key, source) and describe(store, key) != ours:
        raise ConflictError(
            f"{store.uri}/{key}: already there with another content; "
            "choose another name for the run, or delete this stage's folder of the run"
        )
    return ours


def verified(store: Store, ref: ObjectRef) -> bytes:
    """Read an object and check its hash; raise MissingInputError if it differs."""
    data = b"".join(chunks(store, ref.key))
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise _damaged(store, ref)
    return data


def fetch(store: Store, ref: ObjectRef, path: Path) -> Path:
    """Copy an object to a file and check its hash; raise MissingInputError if it differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks(store, ref.key):
            sha256.update(chunk)
            file.write(chunk)
    if sha256.hexdigest() != ref.sha256:
        raise _damaged(store, ref)
    return path


def _damaged(store: Store, ref: ObjectRef) -> MissingInputError:
    return MissingInputError(
        f"{store.uri}/{ref.key}: damaged: its SHA-256 is not the one in the manifest; "
        "run the stage that wrote it again under another --run"
    )
