"""Finished runs of a tiny model by the real stages, and what may be forged of them.

`mine` trains an adapter and answers its held-out rows by two shards; `other` answers a file of
questions, one of which is none. Both load a model that lies in the store.
"""

import csv
import importlib
import json

import pytest

from qatune import STAGES, recipe
from qatune.errors import MissingInputError
from qatune.store import hub, manifests
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore
from qatune.store.objects import describe_source
from qatune.store.shard_records import Record
from qatune.store.verification import verify
from tests.support.tiny import tiny_llama

MINE, OTHER = "mine", "other"
TORN = f"runs/{MINE}/train/checkpoints/step-00000009/0badf00d/adapter.bin"
_REPO, _COMMIT = "team/tiny", "c" * 40
MODEL = f"models/{_REPO}@{_COMMIT}/"


def made(folder):
    """Return a store with both runs. Takes some seconds, most of them training."""
    model, store = tiny_llama(folder / "model"), MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QATUNE_CACHE", str(folder / "cache"))
        patch.setattr(hub, "model_commit", lambda *_: _COMMIT)
        patch.setattr(hub, "model_snapshot", lambda *_: (model, _COMMIT))
        _run(store, MINE, _recipe(_rows(folder / "rows.csv", 40)))
        questions = _rows(folder / "questions.csv", 11, empty=3)
        ours = _recipe(folder / "rows.csv", input=str(questions), adapter="none")
        _run(store, OTHER, ours)
    store.create(TORN, b"an upload that was cut off")
    return store


def _rows(path, count, empty=None):
    """Write questions with answers; the one numbered `empty` holds white space only."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        rows = ((f"What is item {n}?", f"It is the {n}th.") for n in range(1, count + 1))
        writer.writerows((" ", row[1]) if n == empty else row for n, row in enumerate(rows, 1))
        writer.writerows([["What is item 1?", "It is the 1th."]] * 2)
    return path


def _recipe(rows, **generate):
    return recipe.validate(
        {
            "model": {"source": _REPO, "revision": "main", "dtype": "float32"},
            "data": {"source": str(rows), "max_length": 200, "split": {"test_size": 10}},
            "train": {
                "lora": {"r": 4},
                "max_steps": 4,
                "eval_steps": 2,
                "save_steps": 2,
                "per_device_train_batch_size": 4,
            },
            "generate": {"max_new_tokens": 4, "chunk_rows": 3} | generate,
        }
    )


def _run(store, run, ours):
    shards = 2 if run == MINE else 1
    for stage in STAGES:
        work = importlib.import_module(f"qatune.stages.{stage}").run
        if stage == "generate":
            for shard in range(shards):
                work(StageRun.open(store, run, stage, ours), shard, shards)
        elif stage != "train" or ours.generate.adapter == "train":
            work(StageRun.open(store, run, stage, ours))


def copied(store, into):
    """Put all objects of a store into another one."""
    for key in store.keys(""):
        into.create(key, store.read(key))
    return into


def flipped(data, position):
    """Turn one bit of one byte round."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def fault(store, run=MINE):
    """Return what `qatune verify` says of the first fault, which is of one kind always."""
    with pytest.raises(MissingInputError) as caught:
        list(verify(store, run))
    assert caught.value.exit_code == 66
    assert "\n" not in str(caught.value)
    return str(caught.value)


def replaced(store, key, data):
    store.delete(key)
    store.create(key, data)


def loaded(store, run, stage):
    return manifests.load(store, run, stage)[0]


def forged(store, run, objects, counters=None):
    """Put in other objects, and their hashes into all that names them, up to the last manifest.

    `counters` changes those of a stage, or by its number those of a shard. What is left to find
    is what the objects hold.
    """
    counters = counters or {}
    refs = {key: describe_source(key, data) for key, data in objects.items()}
    chain = {stage: found[0] for stage in STAGES if (found := manifests.load(store, run, stage))}
    digests = {}
    for stage, manifest in chain.items():
        if stage == "generate":
            for key in list(store.keys(f"runs/{run}/generate/shards/")):
                record = manifests.parse(store.read(key), key, Record)
                new = _forged(record, refs, digests, counters.get(record.shard, {}))
                replaced(store, key, manifests.encode(new))
        data = manifests.encode(_forged(manifest, refs, digests, counters.get(stage, {})))
        replaced(store, manifests.manifest_key(run, stage), data)
        digests[stage] = describe_source("", data).sha256
    for key, data in objects.items():
        replaced(store, key, data)


def _forged(manifest, refs, digests, counters):
    return manifest.model_copy(
        update={
            "inputs": [refs.get(ref.key, ref) for ref in manifest.inputs],
            "outputs": [refs.get(ref.key, ref) for ref in manifest.outputs],
            "parents": {name: digests[name] for name in manifest.parents},
            "counters": {**manifest.counters, **counters},
        }
    )


def json_lines(store, key):
    return [json.loads(line) for line in store.read(key).splitlines()]


def as_lines(rows):
    return b"".join((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)
