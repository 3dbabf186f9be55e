"""A run that is as written is found so in every store; whatever else it is, the fault is named."""

import random
import re

import pytest
from tests.support import verifiable
from tests.support.qatune_command import fails, qatune
from tests.support.verifiable import MINE, MODEL, OTHER, TORN, copied, fault, flipped, replaced

from qatune import STAGES, recipe
from qatune.errors import MissingInputError
from qatune.store import artifacts, manifests
from qatune.store.folder import FolderStore
from qatune.store.memory import MemoryStore
from qatune.store.verification import verify

PART = f"runs/{MINE}/generate/parts/part-00001-00001.jsonl"
LAST = f"runs/{MINE}/evaluate/manifest.json"
HEARTBEAT = re.compile(r"progress(-\d{5,})?\.json$")


@pytest.fixture
def store(finished):
    return copied(finished, MemoryStore())


def verified(store, run=MINE):
    return dict(verify(store, run))


@pytest.mark.parametrize("kind", ["memory", "folder", "s3"])
def test_a_run_as_written_is_found_so(kind, finished, tmp_path, request):
    into = FolderStore(str(tmp_path / "store")) if kind == "folder" else MemoryStore()
    store = copied(finished, request.getfixturevalue("s3_store") if kind == "s3" else into)
    mine, other = verified(store), verified(store, OTHER)
    assert list(mine) == list(STAGES)
    assert mine["preprocess"].counted == {"rows": 40, "rejected": 2}
    assert mine["train"].counted == {"steps": 4, "checkpoints": 2, "torn checkpoints": 1}
    assert mine["generate"].counted == {"rows": 10, "answers": 10, "errors": 0}
    assert mine["evaluate"].counted == {"rows": 10}
    assert list(other) == ["preprocess", "generate", "evaluate"]
    assert other["generate"].counted == {"rows": 13, "answers": 12, "errors": 1}
    outputs = verifiable.loaded(store, MINE, "preprocess").outputs
    model = [store.stat(key).size for key in store.keys(MODEL)]
    assert mine["preprocess"].objects == len(outputs) + len(model)
    assert mine["preprocess"].size == sum(ref.size for ref in outputs) + sum(model)


def test_a_stage_that_is_not_complete_is_said_to_be_so(store):
    store.delete(LAST)
    assert verified(store)["evaluate"] is None
    store.delete(f"runs/{MINE}/generate/manifest.json")
    store.create(f"runs/{MINE}/generate/parts/part-00009-00009.jsonl", b"of a shard at work")
    assert [stage for stage, found in verified(store).items() if found] == ["preprocess", "train"]


def test_a_run_that_does_not_exist_is_named(store):
    assert "no run 'none'; start it with qatune run" in fault(store, "none")


def parts_of(run):
    return [f"runs/{run}/", MODEL]


@pytest.mark.parametrize("run", [MINE, OTHER])
def test_every_flipped_byte_and_every_missing_object_is_found(finished, run):
    """Three bytes of each object, one at its start; what is no output, heartbeats, aside."""
    choice, store = random.Random(run), copied(finished, MemoryStore())
    keys = [key for prefix in parts_of(run) for key in finished.keys(prefix)]
    for key in sorted(keys):
        if HEARTBEAT.search(key) or key == TORN:
            continue
        data = finished.read(key)
        for position in {0, *(choice.randrange(len(data)) for _ in range(2))}:
            replaced(store, key, flipped(data, position))
            assert key in fault(store, run), position
        store.delete(key)
        check_missing(store, run, key)
        store.create(key, data)
    verified(store, run)


def check_missing(store, run, key):
    """Two may be missing in a run that was stopped as well, and are no fault."""
    if key == f"runs/{run}/evaluate/manifest.json":
        assert verified(store, run)["evaluate"] is None
    elif key.endswith("/checkpoint.json"):
        assert verified(store, run)["train"].counted["torn checkpoints"] == 2
    elif key == f"runs/{run}/recipe.json":
        assert f"no run '{run}'" in fault(store, run)
    else:
        assert key in fault(store, run)


def edited_recipe(store):
    key = f"runs/{MINE}/recipe.json"
    ours = recipe.parse(store.read(key), key)
    ours = ours.model_copy(update={"train": ours.train.model_copy(update={"seed": 7})})
    replaced(store, key, recipe.canonical(ours))
    return key, "was edited"


def reordered_recipe(store):
    key = f"runs/{MINE}/recipe.json"
    replaced(store, key, store.read(key) + b"\n")
    return key, "was edited"


def edited_manifest(store, key=LAST):
    replaced(store, key, store.read(key).replace(b'"errors": 0', b'"errors": 1'))
    return key, "was edited"


def manifest_by_hand(store):
    replaced(store, LAST, b'{"run": "mine", "stage": "evaluate", "outputs": []}')
    return LAST, "not what qatune wrote"


def manifest_of_another_run(store):
    key = f"runs/{MINE}/preprocess/manifest.json"
    replaced(store, key, store.read(f"runs/{OTHER}/preprocess/manifest.json"))
    return key, "of run 'other'"


def other_manifest_below(store):
    key = f"runs/{MINE}/preprocess/manifest.json"
    earlier = verifiable.loaded(store, MINE, "preprocess")
    again = earlier.model_copy(update={"finished": "2020-01-01T00:00:00+00:00"})
    replaced(store, key, manifests.encode(again))
    return key, f"is not what runs/{MINE}/train/manifest.json was made from"


def edited_record(store):
    return edited_manifest(store, f"runs/{MINE}/generate/shards/00001.json")


def edited_division(store):
    key = f"runs/{MINE}/generate/shards.json"
    replaced(store, key, store.read(key).replace(b'"shards": 2', b'"shards": 3'))
    return key, "there are 10 rows in 2 shards"


def missing_part(store):
    store.delete(PART)
    return PART, "no such object"


def part_of_another_run(store):
    replaced(store, PART, store.read(f"runs/{OTHER}/generate/parts/part-00000-00001.jsonl"))
    return PART, "bytes that its manifest says"


def part_in_addition(store):
    key = f"runs/{MINE}/generate/parts/part-00000-00001.jsonl"
    store.create(key, store.read(key.replace(MINE, OTHER)))
    return key, "no manifest of this run names it"


def object_beside_the_stages(store):
    key = f"runs/{MINE}/backup/part-00000-00001.jsonl"
    store.create(key, b"")
    return key, "no manifest of this run names it"


def duplicate_row(store):
    lines = store.read(PART).splitlines(keepends=True)
    replaced(store, PART, b"".join([lines[0], *lines]))
    return PART, "bytes that its manifest says"


def longer_checkpoint(store):
    (key,) = [key for key in store.keys("") if re.search(r"step-0+4/.*/optimizer.pt", key)]
    replaced(store, key, store.read(key) + b"\0")
    return key, "bytes, and its manifest says"


def damaged_model(store):
    key = f"{MODEL}model.safetensors"
    replaced(store, key, flipped(store.read(key), 400_000))
    return key, "damaged: its SHA-256"


@pytest.mark.parametrize(
    "damage",
    [
        edited_recipe,
        reordered_recipe,
        edited_manifest,
        manifest_by_hand,
        manifest_of_another_run,
        other_manifest_below,
        edited_record,
        edited_division,
        missing_part,
        part_of_another_run,
        part_in_addition,
        object_beside_the_stages,
        duplicate_row,
        longer_checkpoint,
        damaged_model,
    ],
)
def test_a_fault_is_named_with_its_place(damage, store):
    key, what = damage(store)
    message = fault(store)
    assert f"memory:/{key}: " in message
    assert what in message


def test_a_manifest_that_was_edited_is_refused_by_every_stage(store):
    key, _ = edited_manifest(store, f"runs/{MINE}/generate/manifest.json")
    ours = artifacts.bound_recipe(store, MINE)
    for reader in (
        lambda: artifacts.is_complete(store, MINE, "generate", ours),
        lambda: artifacts.StageRun.open(store, MINE, "evaluate", ours),
    ):
        with pytest.raises(MissingInputError, match="was edited or damaged") as caught:
            reader()
        assert key in str(caught.value)


def test_the_command_says_what_it_found_and_fails_with_the_key(finished, tmp_path):
    store = copied(finished, FolderStore(str(tmp_path / "store")))
    where = ("verify", MINE, "--store", store.uri)
    done = qatune(*where)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("preprocess: 11 objects, 0.5 MB, 40 rows, 2 rejected: as written")
    assert lines[3].startswith("evaluate: 3 objects, ")
    assert re.fullmatch(r"run 'mine' is as written: 37 objects, [\d.]+ MB, [\d.]+ MB/s", lines[4])
    store.delete(LAST)
    done = qatune(*where)
    assert done.returncode == 0
    assert "evaluate: not complete\nrun 'mine' is as written, where it is complete" in done.stdout
    path = tmp_path / "store" / PART
    path.write_bytes(flipped(path.read_bytes(), 100))
    assert f"{store.uri}/{PART}: damaged" in fails(66, *where)
    assert "no run 'none'" in fails(66, "verify", "none", *where[2:])
