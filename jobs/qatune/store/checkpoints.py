"""Checkpoints of record: complete and verified, or not there.

`<prefix>step-00000120/<attempt>/` holds the files of one checkpoint, and last its manifest with
their hashes. Each save has a folder of its own: a retry meets no leftovers of a save that was
cut off, and two trainers that do not know of each other cannot mix their files.
"""

import re
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from qatune import log
from qatune.errors import MissingInputError, UnavailableError, UsageError
from qatune.store import manifests
from qatune.store.manifests import Sealed
from qatune.store.objects import ObjectRef, Store, create_once, fetch

_MANIFEST = "checkpoint.json"
_FOLDER = re.compile(r"step-(\d{8})/([0-9a-f]{8})/")


class _OtherRunError(MissingInputError):
    """It cannot be used, and is whole all the same."""


class _Manifest(Sealed):
    format: int = 1
    step: int
    made_for: str
    processes: int = 1
    files: list[ObjectRef]
    """Keys are relative to the checkpoint's folder."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    step: int
    folder: str
    """Key prefix, with the slash at its end."""


def save(
    store: Store, prefix: str, step: int, folder: Path, made_for: str, *, processes: int = 1
) -> Checkpoint:
    """Upload a folder; when this returns, the checkpoint is durable.

    `made_for` names what the checkpoint can be used with: `newest` wants the same. So it does of
    the number of processes that train together, as each adds to the batch.

    Raises UnavailableError if the folder is gone, as one for temporary files may be.
    """
    saved = Checkpoint(step, f"{prefix}step-{step:08d}/{uuid.uuid4().hex[:8]}/")
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        ref = create_once(store, saved.folder + name, path)
        files.append(ObjectRef(name, ref.sha256, ref.size))
    if not files:
        raise UnavailableError(f"{folder}: its files are gone; run the same command again")
    manifest = _Manifest(step=step, made_for=made_for, processes=processes, files=files)
    create_once(store, saved.folder + _MANIFEST, manifests.encode(manifest))
    return saved


def newest(
    store: Store,
    prefix: str,
    folder: Path,
    made_for: str,
    *,
    processes: int = 1,
    damaged: Callable[[Checkpoint], None] = lambda _: None,
) -> tuple[Checkpoint, Path] | None:
    """Fetch the newest valid checkpoint below `folder`; warn of each one that is skipped.

    `damaged` hears of those that were complete once. Raises UsageError if the newest is of
    another number of processes.
    """
    for found, whole in sorted(_listed(store, prefix).items(), reverse=True):
        try:
            return found, get(store, prefix, found, folder, made_for, processes=processes)
        except MissingInputError as error:
            log.get().warning("checkpoint skipped", checkpoint=found.folder, reason=str(error))
            if whole and not isinstance(error, _OtherRunError):
                damaged(found)
    return None


def complete(store: Store, prefix: str) -> Iterator[tuple[Checkpoint, list[ObjectRef]]]:
    """Yield each complete checkpoint, the oldest first, with what its manifest says of its files.

    Raises MissingInputError for a manifest that is damaged.
    """
    for found, whole in sorted(_listed(store, prefix).items()):
        if whole:
            manifest = _manifest(store, found)
            yield (
                found,
                [ObjectRef(found.folder + ref.key, ref.sha256, ref.size) for ref in manifest.files],
            )


def get(
    store: Store, prefix: str, found: Checkpoint, folder: Path, made_for: str, *, processes: int = 1
) -> Path:
    """Fetch this one below `folder`; raise MissingInputError if it is not whole."""
    path = folder / found.folder.removeprefix(prefix)
    _fetch(store, found, path, made_for, processes)
    return path


def prune(
    store: Store,
    prefix: str,
    saved: Checkpoint,
    keep: int,
    damaged: Collection[Checkpoint] = (),
) -> None:
    """Delete all but those of the `keep` newest steps up to that of `saved`, which is complete.

    The `damaged` ones go, and stand for none. Later steps are left alone: they belong to a
    trainer that is ahead of this one. So is whatever else there is of a step that stays: of two
    trainers each would delete the other's.
    """
    listed = _listed(store, prefix)
    complete = [
        found
        for found, whole in listed.items()
        if whole and found.step <= saved.step and found not in damaged
    ]
    kept = sorted({found.step for found in complete}, reverse=True)[:keep]
    cut_off = [found for found, whole in listed.items() if not whole and found.step < saved.step]
    for found in [*(found for found in complete if found.step not in kept), *cut_off, *damaged]:
        _delete(store, found)


def _listed(store: Store, prefix: str) -> dict[Checkpoint, bool]:
    """Return every checkpoint's folder, and whether its manifest is there."""
    listed: dict[Checkpoint, bool] = {}
    for key in store.keys(prefix):
        match = _FOLDER.match(key, len(prefix))
        if match:
            found = Checkpoint(int(match[1]), prefix + match[0])
            whole = key == found.folder + _MANIFEST
            listed[found] = listed.get(found, False) or whole
    return listed


def _fetch(store: Store, found: Checkpoint, folder: Path, made_for: str, processes: int) -> None:
    if store.stat(found.folder + _MANIFEST) is None:
        raise MissingInputError("its upload was cut off")
    try:
        manifest = _manifest(store, found)
    except MissingInputError:
        raise MissingInputError("its manifest is damaged") from None
    if manifest.made_for != made_for or manifest.step != found.step:
        raise _OtherRunError("it belongs to another recipe or other rows")
    if manifest.processes != processes:
        raise UsageError(
            f"{processes} processes train together (--nodes times --processes), but "
            f"{store.uri}/{found.folder} was made by {manifest.processes}: batches would be of "
            f"another size; go on with {manifest.processes}, or choose another name for the run"
        )
    for ref in manifest.files:
        fetch(store, ObjectRef(found.folder + ref.key, ref.sha256, ref.size), folder / ref.key)


def _manifest(store: Store, found: Checkpoint) -> _Manifest:
    key = found.folder + _MANIFEST
    return manifests.parse(store.read(key), f"{store.uri}/{key}", _Manifest)


def _delete(store: Store, found: Checkpoint) -> None:
    """Delete the manifest first: what is half deleted must not look complete."""
    for key in sorted(store.keys(found.folder), key=lambda key: key != found.folder + _MANIFEST):
        store.delete(key)
