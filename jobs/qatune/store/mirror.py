"""A model of the hub, copied into the store once: later stages need neither the hub nor a token.

`models/{repo}@{commit}/` holds the files that loading needs and, written last, `mirror.json` with
their hashes. Nothing in it depends on when or by whom it was made: two who make it agree.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from qatune import log
from qatune.errors import MissingInputError
from qatune.store.objects import (
    ConflictError,
    NoSuchObjectError,
    ObjectRef,
    Stat,
    Store,
    create_once,
    describe_source,
)
from qatune.store.ranges import cache_folder, download

MIRRORS = "models/"
_LIST = "mirror.json"
_UPLOADS = 4
_WEIGHTS = (".safetensors", ".bin")


class _List(BaseModel):
    """What is in mirror.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    repo: str
    commit: str
    files: list[ObjectRef]
    """Keys are names in the mirror's folder."""


@dataclass(frozen=True)
class Mirror:
    """A complete mirror in a store."""

    store: Store
    folder: str
    """Key prefix, with the slash at its end."""
    files: tuple[ObjectRef, ...]
    list_ref: ObjectRef

    @property
    def refs(self) -> tuple[ObjectRef, ...]:
        """All of it, for a manifest."""
        return (*self.files, self.list_ref)

    def fetch(self, *, weights: bool) -> Path:
        """Bring its files to this machine and check their hashes; with `weights` all of them."""
        wanted = {
            ref.key.removeprefix(self.folder): ref
            for ref in self.files
            if weights or not ref.key.endswith(_WEIGHTS)
        }
        name = hashlib.sha256(repr((self.folder, sorted(wanted.items()))).encode()).hexdigest()[:32]
        target = cache_folder() / "models" / name
        if target.is_dir():
            self._check(target, wanted, lambda name: f"{target / name}", f"delete {target}")
            return target
        found = {name: (ref.key, self._stat(ref.key)) for name, ref in wanted.items()}

        def check(folder: Path) -> None:
            self._check(folder, wanted, lambda name: f"{self._uri}{name}", self._advice)

        download(self.store, found, target, self._uri.rstrip("/"), check)
        return target

    def _stat(self, key: str) -> Stat:
        found = self.store.stat(key)
        if found is None:
            raise MissingInputError(f"{self.store.uri}/{key}: no such object; {self._advice}")
        return found

    @staticmethod
    def _check(
        folder: Path, files: Mapping[str, ObjectRef], where: Callable[[str], str], advice: str
    ) -> None:
        def is_whole(name: str) -> bool:
            path, ref = folder / name, files[name]
            return path.is_file() and describe_source(ref.key, path) == ref

        with ThreadPoolExecutor(_UPLOADS) as pool:
            for name, whole in zip(files, pool.map(is_whole, files), strict=True):
                if not whole:
                    raise MissingInputError(
                        f"{where(name)}: damaged: its SHA-256 is not the one in {_LIST}; {advice}"
                    )

    @property
    def _uri(self) -> str:
        return f"{self.store.uri}/{self.folder}"

    @property
    def _advice(self) -> str:
        return _advice(self._uri)


def find(store: Store, repo: str, commit: str) -> Mirror | None:
    """Return the store's mirror of a commit; None while it is not complete."""
    folder = _folder(repo, commit)
    key = folder + _LIST
    try:
        data = store.read(key)
    except NoSuchObjectError:
        return None
    try:
        listed = _List.model_validate_json(data)
    except ValidationError:
        raise MissingInputError(
            f"{store.uri}/{key}: not what qatune wrote; {_advice(f'{store.uri}/{folder}')}"
        ) from None
    files = (ObjectRef(folder + ref.key, ref.sha256, ref.size) for ref in listed.files)
    return Mirror(store, folder, tuple(files), describe_source(key, data))


def make(store: Store, repo: str, commit: str, files: list[Path]) -> Mirror:
    """Copy the files of a snapshot into the store; whoever does the same meanwhile agrees."""
    start, folder = time.monotonic(), _folder(repo, commit)
    size = sum(path.stat().st_size for path in files)
    target = f"{store.uri}/{folder}".rstrip("/")
    log.get().info("mirroring", source=repo, to=target, files=len(files), bytes=size)
    try:
        with ThreadPoolExecutor(_UPLOADS) as pool:
            refs = list(
                pool.map(lambda path: create_once(store, folder + path.name, path), sorted(files))
            )
        names = [ObjectRef(ref.key.removeprefix(folder), ref.sha256, ref.size) for ref in refs]
        listed = _List(repo=repo, commit=commit, files=names)
        list_ref = create_once(store, folder + _LIST, listed.model_dump_json(indent=1).encode())
    except ConflictError as error:
        what = str(error).split(": ", 1)[0]
        raise MissingInputError(
            f"{what}: not what the hub has; {_advice(f'{store.uri}/{folder}')}"
        ) from error
    log.get().info("mirrored", to=target, bytes=size, seconds=round(time.monotonic() - start, 1))
    return Mirror(store, folder, tuple(refs), list_ref)


def _folder(repo: str, commit: str) -> str:
    return f"{MIRRORS}{repo}@{commit}/"


def _advice(uri: str) -> str:
    return (
        f"delete {uri} and preprocess any new run with this model, "
        "which copies it from the hub again; then run this again"
    )
