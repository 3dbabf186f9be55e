"""Data, models and adapters, wherever the recipe says they are."""

import fnmatch
import glob
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from qatune import log
from qatune.errors import MissingInputError
from qatune.store.folder import TEMPORARY, plain_errors, remove_leftovers
from qatune.store.manifests import Manifest
from qatune.store.objects import CHUNK_BYTES, ObjectRef, Stat, Store, describe_source
from qatune.store.opening import open_store

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
_AHEAD = 3
_STREAMS = 8
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

    @property
    def name(self) -> str:
        return f"{self.source}@{self.revision}" if self.revision else self.source

    def files(self) -> list[ObjectRef]:
        """Hash its files, for a manifest."""
        return describe_files(self.path, self.name)

    def tokenizer_files(self) -> list[ObjectRef]:
        """Hash the files that texts become ids by."""
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
    named = {ref.key.rsplit("/", 1)[-1]: ref for ref in refs if ref.key.startswith(source)}
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
                yield SourceFile(uri, Path(key).name, stat.size, partial(_open, store, key, stat))


def _open(store: Store, key: str, stat: Stat) -> BinaryIO:
    return cast("BinaryIO", io.BufferedReader(_RangedReader(store, key, stat), 1024 * 1024))


class _RangedReader(io.RawIOBase):
    """One version of an object by ranges of 8 MiB, some of them ahead of the reader.

    Holds at most the block that is read and `_AHEAD` more; no connection waits in between.
    """

    def __init__(self, store: Store, key: str, stat: Stat) -> None:
        super().__init__()
        self._store, self._key, self._stat = store, key, stat
        self._position = 0
        self._last = -1
        self._blocks: dict[int, Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(_AHEAD + 1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stat.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        if self._position >= self._stat.size:
            return 0
        index, start = divmod(self._position, CHUNK_BYTES)
        piece = self._block(index)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._blocks.clear()
        super().close()

    def _block(self, index: int) -> bytes:
        # A reader that jumps about (Parquet) pays for what it asks; one that goes on gets more.
        ahead = _AHEAD if index in {self._last, self._last + 1} else 0
        self._last = index
        wanted = range(index, index + ahead + 1)
        for old in [each for each in self._blocks if each not in wanted]:
            self._blocks.pop(old).cancel()
        for each in wanted:
            if each not in self._blocks and each * CHUNK_BYTES < self._stat.size:
                start = each * CHUNK_BYTES
                self._blocks[each] = self._pool.submit(
                    _read_block, self._store, self._key, self._stat, start
                )
        return self._blocks[index].result()


def _downloaded(source: str) -> Path:
    """Copy every object under a URI to the cache, once for each content."""
    store = open_store(source.rstrip("/") + "/")
    stats = ((key, store.stat(key)) for key in sorted(store.keys("")))
    found = {key: stat for key, stat in stats if stat is not None}
    if not found:
        raise MissingInputError(f"{source}: nothing there")
    name = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:32]
    target = _cache() / "s3" / name
    if not target.is_dir():
        size = sum(stat.size for stat in found.values())
        log.get().info("downloading", source=source, files=len(found), bytes=size)
        with plain_errors(str(target)):
            _download(store, found, target)
    return target


def _download(store: Store, found: Mapping[str, Stat], target: Path) -> None:
    """Fetch objects block by block, several at a time; the folder appears when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=TEMPORARY))
    try:
        for key, stat in found.items():
            _reserve(temporary, key, stat.size)
        blocks = [(key, start) for key, stat in found.items() for start in _starts(stat)]
        with ThreadPoolExecutor(_STREAMS) as pool:
            list(pool.map(lambda block: _copy_block(store, found, temporary, *block), blocks))
        _move(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _reserve(folder: Path, key: str, size: int) -> None:
    path = folder / key
    if not path.resolve().is_relative_to(folder.resolve()):
        raise MissingInputError(f"{key!r}: a name that leaves its folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.truncate(size)


def _starts(stat: Stat) -> range:
    return range(0, stat.size, CHUNK_BYTES)


def _copy_block(
    store: Store, found: Mapping[str, Stat], folder: Path, key: str, start: int
) -> None:
    data = _read_block(store, key, found[key], start)
    with (folder / key).open("r+b") as file:
        file.seek(start)
        file.write(data)


def _read_block(store: Store, key: str, stat: Stat, start: int) -> bytes:
    length = min(CHUNK_BYTES, stat.size - start)
    return store.read(key, start, length, etag=stat.etag)


def _move(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        # Another process may have been faster: its folder holds the same bytes.
        if not target.is_dir():
            raise


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("QATUNE_CACHE") or f"{base}/qatune").expanduser()
