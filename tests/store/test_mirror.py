"""The copy of a hub's model in the store: whole, verified, made once."""

import errno
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from qatune import config
from qatune.errors import MissingInputError, UnavailableError
from qatune.store import hub, mirror
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore
from qatune.store.objects import CHUNK_BYTES, describe_source
from qatune.store.sources import ModelFolder, base_model, check_tokenizer

REPO, COMMIT = "team/tiny", "c" * 40
KEY = f"models/{REPO}@{COMMIT}/"
FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(251)) * 80_000,
    "tokenizer.json": b'{"tokens": []}',
}
SPEC = config.Model(source=REPO, revision="main")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    for name in ("README.md", ".gitattributes", "pytorch_model.bin"):
        (folder / name).write_text("not needed")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QATUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/models"


def make(store, folder):
    return mirror.make(store, REPO, COMMIT, hub.model_files(folder))


def replaced(store, key, data):
    store.delete(key)
    store.create(key, data)


def preprocessed(store, refs):
    """Complete a run's preprocess that has read these files."""
    ours = config.Recipe(model=SPEC, data=config.Data(source="unused.csv"))
    stage = StageRun.open(store, "r", "preprocess", ours)
    stage.used(refs)
    return stage.finish()


def test_what_loading_needs_is_copied_and_read_back_by_ranges(s3_store, folder, cache):
    assert mirror.find(s3_store, REPO, COMMIT) is None
    made = make(s3_store, folder)
    assert mirror.find(s3_store, REPO, COMMIT) == made
    assert {key.removeprefix(KEY) for key in s3_store.keys("models/")} == {*FILES, "mirror.json"}
    assert {ref.key: ref for ref in made.files} == {
        KEY + name: describe_source(KEY + name, data) for name, data in FILES.items()
    }
    assert len(FILES["model.safetensors"]) > 2 * CHUNK_BYTES
    path = made.fetch(weights=True)
    assert {each.name: each.read_bytes() for each in path.iterdir()} == FILES
    assert made.fetch(weights=True) == path
    few = made.fetch(weights=False)
    assert {each.name for each in few.iterdir()} == {"config.json", "tokenizer.json"}


def test_a_mirror_that_is_made_again_or_twice_at_once_is_the_same(s3_store, folder):
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: make(s3_store, folder), range(3)))
    assert made[0] == made[1] == made[2]
    listed = s3_store.read(f"{KEY}mirror.json")
    s3_store.delete(f"{KEY}mirror.json")  # as if it had been cut off
    s3_store.delete(f"{KEY}tokenizer.json")
    assert mirror.find(s3_store, REPO, COMMIT) is None
    assert make(s3_store, folder) == made[0]
    assert s3_store.read(f"{KEY}mirror.json") == listed


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_named_and_leaves_nothing_behind(s3_store, folder, cache, name):
    made = make(s3_store, folder)
    replaced(s3_store, KEY + name, FILES[name][:-1] + b"!")
    with pytest.raises(MissingInputError) as raised:
        made.fetch(weights=True)
    said = str(raised.value)
    assert f"{s3_store.uri}/{KEY}{name}: damaged" in said
    assert f"delete {s3_store.uri}/{KEY} and preprocess any new run" in said
    assert list(cache.iterdir()) == []
    s3_store.delete(KEY + name)
    with pytest.raises(MissingInputError, match=f"{name}: no such object; delete"):
        made.fetch(weights=True)


def test_a_damaged_copy_on_this_machine_is_named(folder, cache):
    made = make(MemoryStore(), folder)
    path = made.fetch(weights=True)
    (path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(
        MissingInputError, match=rf"{path}/model.safetensors: damaged.*delete {path}"
    ):
        made.fetch(weights=True)


def test_other_files_where_the_mirror_belongs_are_refused(folder):
    store = MemoryStore()
    store.create(f"{KEY}config.json", b"something else")
    with pytest.raises(MissingInputError, match=rf"{KEY}config.json: not what the hub has; delete"):
        make(store, folder)
    replaced(store, f"{KEY}mirror.json", b"{}")
    with pytest.raises(MissingInputError, match=r"mirror.json: not what qatune wrote; delete"):
        mirror.find(store, REPO, COMMIT)


def test_a_full_disk_is_one_line(folder, cache, monkeypatch):
    made = make(MemoryStore(), folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qatune.store.ranges._reserve", full)
    with pytest.raises(UnavailableError, match="is full; free space"):
        made.fetch(weights=True)
    assert list(cache.iterdir()) == []


def test_a_run_reads_the_mirror_of_the_commit_that_it_began_with(folder, cache):
    store = MemoryStore()
    made = make(store, folder)
    manifest = preprocessed(store, made.refs)
    found = base_model(store, "r", SPEC)
    assert (found.revision, found.source, found.files()) == (COMMIT, REPO, list(made.refs))
    check_tokenizer(manifest, REPO, found.files())
    changed = json.loads(store.read(f"{KEY}mirror.json")) | {"files": []}
    replaced(store, f"{KEY}mirror.json", json.dumps(changed).encode())
    with pytest.raises(MissingInputError, match="not the one that the rows were tokenized with"):
        base_model(store, "r", SPEC)


def test_rows_tokenized_from_the_hub_agree_with_a_mirror(folder, cache):
    """As when another run has made it since."""
    store = MemoryStore()
    manifest = preprocessed(store, ModelFolder(folder, COMMIT, REPO).tokenizer_files())
    make(store, folder)
    found = base_model(store, "r", SPEC)
    assert found.revision == COMMIT
    check_tokenizer(manifest, REPO, found.files())
    others = [ref for ref in found.files() if "tokenizer" not in ref.key]
    with pytest.raises(MissingInputError, match="tokenizer"):
        check_tokenizer(manifest, REPO, others)
