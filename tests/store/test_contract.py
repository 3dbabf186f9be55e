"""What every store promises, asked of all three."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from qatune.errors import MissingInputError
from qatune.store.folder import FolderStore
from qatune.store.memory import MemoryStore
from qatune.store.objects import (
    CHUNK_BYTES,
    ConflictError,
    NoSuchObjectError,
    chunks,
    create_once,
    describe_source,
    fetch,
)


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request, tmp_path):
    if request.param == "memory":
        return MemoryStore()
    if request.param == "folder":
        return FolderStore(str(tmp_path / "store"))
    return request.getfixturevalue("s3_store")


def test_an_object_is_created_once(store):
    assert store.create("a/b.json", b"first")
    assert not store.create("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"
    assert store.notes == []


def test_of_racing_creators_exactly_one_wins(store):
    store.create("warm", b"")
    bodies = [f"writer {number}".encode() for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda body: store.create("race", body), bodies))
    assert sum(won) == 1
    assert store.read("race") == bodies[won.index(True)]


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, None, b"0123456789"), (3, 4, b"3456"), (8, 9, b"89"), (4, None, b"456789"), (2, 0, b"")],
)
def test_ranges(store, start, length, expected):
    store.create("digits", b"0123456789")
    assert store.read("digits", start, length) == expected


def test_a_changed_object_is_not_mixed_with_its_old_self(store):
    store.replace("beat", b"one")
    old = store.stat("beat")
    store.replace("beat", b"other")
    assert store.read("beat") == b"other"
    with pytest.raises(ConflictError, match="beat"):
        store.read("beat", etag=old.etag)
    assert store.read("beat", 1, 2, etag=store.stat("beat").etag) == b"th"


def test_listing_and_deleting(store):
    for key in ("a/1", "a/2/3", "ab", "b"):
        store.create(key, b"x")
    assert sorted(store.keys("a")) == ["a/1", "a/2/3", "ab"]
    assert sorted(store.keys("a/")) == ["a/1", "a/2/3"]
    store.delete("a/1")
    store.delete("a/1")
    assert list(store.keys("a/")) == ["a/2/3"]
    assert list(store.keys("nothing/here/")) == []


def test_a_big_object_from_bytes_and_from_a_file(store, tmp_path):
    data = bytes(range(256)) * (20 * 4096)
    (tmp_path / "big").write_bytes(data)
    assert create_once(store, "bytes", data).size == len(data)
    assert create_once(store, "bytes", tmp_path / "big").size == len(data)
    store.create("file", tmp_path / "big")
    pieces = list(chunks(store, "file"))
    assert b"".join(pieces) == data
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES, CHUNK_BYTES, len(data) % CHUNK_BYTES]


def test_a_source_that_is_missing_is_no_fault_of_the_store(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        store.create("x", tmp_path / "none")
    assert list(store.keys("")) == []


@pytest.mark.parametrize("key", ["frågor/日本 +&%20.json", "a b/c=d"])
def test_names_are_kept_to_the_letter(store, key):
    store.create(key, b"x")
    assert list(store.keys(key.split("/", maxsplit=1)[0])) == [key]
    assert store.read(key) == b"x"


def test_an_empty_object(store):
    store.create("empty", b"")
    assert store.stat("empty").size == 0
    assert store.read("empty") == b""
    assert list(chunks(store, "empty")) == []


def test_a_missing_object(store):
    assert store.stat("none") is None
    for read in (store.read, lambda key: list(chunks(store, key))):
        with pytest.raises(NoSuchObjectError, match="none"):
            read("none")


def test_creating_again_must_agree(store):
    assert create_once(store, "x", b"same") == create_once(store, "x", b"same")
    with pytest.raises(ConflictError, match="another content"):
        create_once(store, "x", b"else")


def test_a_damaged_object_is_noticed(store, tmp_path):
    store.create("x", b"damaged")
    with pytest.raises(MissingInputError, match="damaged"):
        fetch(store, describe_source("x", b"written"), tmp_path / "x")
