"""Data, models and adapters, wherever the recipe says they are."""

import fnmatch
import glob
import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from qatune import config
from qatune.errors import MissingInputError
from qatune.store import manifests, mirror
from qatune.store.folder import FolderStore, plain_errors
from qatune.store.manifests import Manifest
from qatune.store.objects import ObjectRef, Store, describe_source
from qatune.store.opening import open_store
from qatune.store.ranges import cache_folder, download, open_ranged

TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
    }
)
_HINT = "a hub id needs a revision beside it"
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceFile:
    """One file of data: `size` in bytes; `open` gives fresh, seekable, raw bytes."""

    uri: str
    name: str
    size: int
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class ModelFolder:
    """A local folder with config, tokenizer and weights; the commit if it is from the hub."""

    path: Path
    revision: str | None
    source: str
    mirrored: tuple[ObjectRef, ...] = ()
    """Where the files came from a mirror in the store, or went into one: all of it."""

    @property
    def name(self) -> str:
        return f"{self.source}@{self.revision}" if self.revision else self.source

    def files(self) -> list[ObjectRef]:
        """Say what is in its files, for a manifest."""
        return list(self.mirrored) or describe_files(self.path, self.name)

    def tokenizer_files(self) -> list[ObjectRef]:
        """Say what is in the files that texts become ids by."""
        return describe_files(self.path, self.name, TOKENIZER_FILES)


def data_files(source: str, revision: str | None, files: str = "*") -> list[SourceFile]:
    """List the files of a path, glob, folder, s3:// URI or (with a revision) hub dataset.

    `files` is a glob for those of a folder or data set. Sorted by URI; MissingInputError if none.
    """
    if revision is not None:
        from qatune.store import hub

        found = [
            _local(path, f"{source}@{revision}/{name}")
            for name, path in hub.dataset_files(source, revision, files)
        ]
    elif source.startswith("s3://"):
        found = list(_bucket_files(source, files))
    else:
        found = [_local(path, _as_written(path, source)) for path in _local_paths(source, files)]
    if not found:
        raise MissingInputError(f"{source}: no such file, and nothing matches; {_HINT}")
    return sorted(found, key=lambda file: file.uri)


def model_folder(source: str, revision: str | None) -> ModelFolder:
    """Bring the model to this machine; MissingInputError where it has no config or weights."""
    commit = None
    if revision is not None:
        from qatune.store import hub

        path, commit = hub.model_snapshot(source, revision)
    else:
        path = _folder(source)
    if not (path / "config.json").is_file():
        raise MissingInputError(f"{source}: no config.json, so this is no model; {_HINT}")
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise MissingInputError(f"{source}: no weights (*.safetensors or *.bin) in this model")
    return ModelFolder(path, commit, source)


def shared_model(store: Store, spec: config.Model) -> ModelFolder:
    """Bring what tokenizing needs, and see to it that later stages find the whole model.

    A model of the hub is mirrored in the store once, unless that is a folder of this machine.
    """
    if spec.revision is None or isinstance(store, FolderStore):
        return model_folder(spec.source, spec.revision)
    from qatune.store import hub

    commit = hub.model_commit(spec.source, spec.revision)
    found = mirror.find(store, spec.source, commit)
    if found is not None:
        return ModelFolder(found.fetch(weights=False), commit, spec.source, found.refs)
    path = model_folder(spec.source, commit).path
    found = mirror.make(store, spec.source, commit, hub.model_files(path))
    return ModelFolder(path, commit, spec.source, found.refs)


def base_model(store: Store, run: str, spec: config.Model) -> ModelFolder:
    """Bring the run's base to this machine: from the store's mirror, or from where it is.

    A branch of the hub may move on: the run stays with the commit that its preprocess took.
    """
    if spec.revision is None:
        return model_folder(spec.source, None)
    copy = mirrored_base(store, run, spec)
    return copy or model_folder(spec.source, _commit(_tokenized_with(store, run), spec))


def mirrored_base(store: Store, run: str, spec: config.Model) -> ModelFolder | None:
    """Bring the run's base from the store's mirror; None where that has no copy of it.

    Imports nothing, so that it may be done while others import.
    """
    inputs = _tokenized_with(store, run)
    commit = _commit(inputs, spec)
    copy = mirror.find(store, spec.source, commit)
    if copy is None:
        return None
    if inputs.get(copy.list_ref.key, copy.list_ref) != copy.list_ref:
        raise MissingInputError(
            f"{store.uri}/{copy.list_ref.key}: not the one that the rows were tokenized with; "
            "start again under another --run"
        )
    return ModelFolder(copy.fetch(weights=True), commit, spec.source, copy.refs)


def _tokenized_with(store: Store, run: str) -> dict[str, ObjectRef]:
    """Return what preprocess has read, by its name; nothing where it never ran."""
    found = manifests.load(store, run, "preprocess")
    return {ref.key: ref for ref in found[0].inputs} if found else {}


def _commit(inputs: Iterable[str], spec: config.Model) -> str:
    """Return the commit of the model that is named in what was read, or what the recipe asks."""
    named = re.compile(rf"(?:{mirror.MIRRORS})?{re.escape(spec.source)}@([0-9a-f]{{40}})/")
    found = (match[1] for match in map(named.match, inputs) if match)
    return next(found, str(spec.revision))


def describe_files(folder: Path, name: str, only: Container[str] | None = None) -> list[ObjectRef]:
    """Hash a folder's files, hidden ones left out; `name` stands for the folder in their keys."""
    return [
        describe_source(f"{name}/{path.name}", path)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and (only is None or path.name in only)
    ]


def check_tokenizer(preprocess: Manifest, source: str, files: Sequence[ObjectRef]) -> None:
    """Raise MissingInputError unless the model's tokenizer is the one that the ids are from."""
    here = _tokenizer_hashes(files, source)
    there = _tokenizer_hashes(preprocess.inputs, source)
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise MissingInputError(
                f"{source}: its {name} is not the one that the rows were tokenized with; "
                "bring that back, or start again under another --run"
            )


def _tokenizer_hashes(refs: Sequence[ObjectRef], source: str) -> dict[str, str]:
    places = (source, f"{mirror.MIRRORS}{source}@")
    named = {ref.key.rsplit("/", 1)[-1]: ref for ref in refs if ref.key.startswith(places)}
    return {name: ref.sha256 for name, ref in named.items() if name in TOKENIZER_FILES}


def adapter_folder(source: str) -> Path:
    """Bring an adapter to this machine."""
    path = _folder(source)
    if not (path / "adapter_config.json").is_file():
        raise MissingInputError(f"{source}: no adapter_config.json, so this is no adapter")
    return path


def _folder(source: str) -> Path:
    if source.startswith("s3://"):
        return _downloaded(source)
    path = _expanded(source)
    if not path.is_dir():
        raise MissingInputError(f"{source}: no such folder; {_HINT}")
    return path


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~name of nobody
        raise MissingInputError(f"{source}: no such user; {_HINT}") from None


def _local_paths(source: str, files: str) -> list[Path]:
    path = _expanded(source)
    with plain_errors(source):
        if path.is_dir():
            return [each for each in path.glob(files) if each.is_file()]
        if path.is_file():
            return [path]
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob wants a root)
        return [Path(name) for name in names if Path(name).is_file()]


def _as_written(path: Path, source: str) -> str:
    """Name a file below `~` as the recipe does: manifests travel, home folders do not."""
    in_home = source.startswith("~/") and path.is_relative_to(Path.home())
    return f"~/{path.relative_to(Path.home())}" if in_home else str(path)


def _local(path: Path, uri: str) -> SourceFile:
    return SourceFile(uri, Path(uri).name, path.stat().st_size, partial(_open_local, path, uri))


def _open_local(path: Path, uri: str) -> BinaryIO:
    with plain_errors(uri):
        return path.open("rb")


def _bucket_files(source: str, files: str) -> Iterator[SourceFile]:
    """List by the literal start of a name, folder or glob; match the rest here."""
    bucket, _, path = source.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{bucket}")
    literal = _MAGIC.split(path)[0]
    folder = path.rstrip("/") + "/" if path else ""
    for key in store.keys(literal):
        inside = key.startswith(folder) and fnmatch.fnmatchcase(key.removeprefix(folder), files)
        if key == path or inside or (literal != path and fnmatch.fnmatchcase(key, path)):
            stat = store.stat(key)
            if stat is not None:
                uri = f"s3://{bucket}/{key}"
                yield SourceFile(
                    uri, Path(key).name, stat.size, partial(open_ranged, store, key, stat)
                )


def _downloaded(source: str) -> Path:
    """Copy every object under a URI to the cache, once for each content."""
    store = open_store(source.rstrip("/") + "/")
    stats = ((key, store.stat(key)) for key in sorted(store.keys("")))
    found = {key: stat for key, stat in stats if stat is not None}
    if not found:
        raise MissingInputError(f"{source}: nothing below it; name the folder that holds the files")
    name = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:32]
    target = cache_folder() / "s3" / name
    if not target.is_dir():
        download(store, {key: (key, stat) for key, stat in found.items()}, target, source)
    return target
