"""A model of the hub on its way to the pods: each command is a process with its own disk."""

import csv
import json
import shutil

import pytest
import yaml
from tests.support import faulty_s3, hub_server
from tests.support.hub_server import Repository
from tests.support.qatune_command import fails, qatune
from tests.support.tiny import tiny_llama

from qatune.store import manifests

REPO = "team/tiny"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def hub(model):
    with hub_server.running() as hub:
        hub.repositories[REPO] = Repository(model)
        yield hub


@pytest.fixture
def moved(hub, model, tmp_path):
    """Move the branch on to another commit."""

    def move():
        before = hub.repositories[REPO].commit
        hub.repositories[REPO] = Repository(shutil.copytree(model, tmp_path / "moved"))
        assert hub.repositories[REPO].commit != before
        return before

    return move


@pytest.fixture
def recipe(tmp_path):
    rows = tmp_path / "rows.csv"
    with rows.open("w", newline="") as file:
        written = [[f"What is item {n}?", f"It is the {n}th."] for n in range(24)]
        csv.writer(file).writerows([["question", "answer"], *written])
    fields = {
        "model": {"source": REPO, "revision": "main", "dtype": "float32"},
        "data": {"source": str(rows), "split": {"test_size": 4}},
        "train": {"lora": {"r": 4}, "max_steps": 2, "eval_steps": 2, "save_steps": 2},
        "generate": {"max_new_tokens": 4},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"recipe": fields}))
    return tmp_path / "tiny.yaml"


@pytest.fixture
def pod(tmp_path, hub):
    """The environment of a pod with an empty disk."""
    numbers = iter(range(100))

    def made(endpoint=hub.endpoint, token=""):
        disk = tmp_path / f"pod-{next(numbers)}"
        return {
            "HF_ENDPOINT": endpoint,
            "HF_TOKEN": token,
            "HF_HOME": str(disk / "huggingface"),
            "QATUNE_CACHE": str(disk / "cache"),
        }

    return made


NO_HUB = "http://127.0.0.1:9"


def succeeds(*arguments, **options):
    done = qatune(*arguments, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def events(done):
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_only_preprocess_needs_the_hub_and_its_token(recipe, hub, pod, s3_store):
    hub.repositories[REPO].gated = True
    where = ("--run", "r", "--store", s3_store.uri)
    line = fails(77, "preprocess", *where, "--recipe", recipe, env=pod())
    assert "accept the licence on its page and set HF_TOKEN" in line
    assert list(s3_store.keys("")) == []
    succeeds("preprocess", *where, "--recipe", recipe, env=pod(token="tests-token"))

    folder = f"models/{REPO}@{hub.repositories[REPO].commit}/"
    train = succeeds("train", *where, env=pod(NO_HUB))
    succeeds("generate", *where, env=pod(NO_HUB))
    asked = succeeds("ask", "r", "What is item 3?", "--store", s3_store.uri, env=pod(NO_HUB))
    assert "adapter:" in asked.stdout

    found = {
        stage: {ref.key: ref for ref in manifests.load(s3_store, "r", stage)[0].inputs}
        for stage in ("preprocess", "train", "generate")
    }
    mirrored = set(s3_store.keys(folder))
    assert f"{folder}model.safetensors" in mirrored
    for inputs in found.values():
        assert {key: inputs[key] for key in mirrored} == {
            key: found["preprocess"][key] for key in mirrored
        }
    listed = json.loads(s3_store.read(f"{folder}mirror.json"))
    (read,) = (event for event in events(train) if event["message"] == "downloaded")
    assert read["source"] == f"{s3_store.uri}/{folder}".rstrip("/")
    assert read["bytes"] == sum(each["size"] for each in listed["files"])
    assert read["seconds"] >= 0
    adapter = json.loads(s3_store.read("runs/r/train/adapter/qatune.json"))
    assert adapter["base"]["revision"] == hub.repositories[REPO].commit


@pytest.fixture
def bucket(monkeypatch):
    """A server that tells what it was asked."""
    with faulty_s3.running() as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server


def test_a_model_that_is_mirrored_is_not_fetched_again(recipe, hub, pod, bucket):
    store = ("--store", "s3://bucket/p", "--recipe", recipe)
    succeeds("preprocess", "--run", "first", *store, env=pod())
    assert any("model.safetensors" in each for each in hub.asked)
    hub.asked.clear()
    bucket.asked.clear()
    again = succeeds("preprocess", "--run", "second", *store, env=pod())
    assert [each for each in hub.asked if REPO in each] == [f"GET /api/models/{REPO}/revision/main"]
    assert not [key for method, key in bucket.asked if method == "PUT" and "/models/" in f"/{key}"]
    assert not [key for _, key in bucket.asked if key.endswith("model.safetensors")]
    assert not [event for event in events(again) if event["message"].startswith("mirror")]
    rows = "p/runs/{}/preprocess/train-00000.parquet"
    assert bucket.objects[rows.format("first")] == bucket.objects[rows.format("second")]

    commit = hub.repositories[REPO].commit
    named = ("--set", f"model.revision={commit}")
    succeeds("preprocess", "--run", "third", *store, *named, env=pod(NO_HUB))


def test_a_run_stays_with_its_commit_when_the_branch_moves(recipe, pod, moved, tmp_path):
    """Here without a mirror: the store is a folder of this machine, so is the hub's cache."""
    where, machine = ("--run", "r", "--store", tmp_path / "store"), pod()
    succeeds("preprocess", *where, "--recipe", recipe, env=machine)
    assert not (tmp_path / "store/models").exists()
    before = moved()
    succeeds("train", *where, env=machine)
    adapter = json.loads((tmp_path / "store/runs/r/train/adapter/qatune.json").read_text())
    assert adapter["base"]["revision"] == before


def test_a_branch_that_moves_leaves_the_mirror_of_a_run(recipe, pod, moved, s3_store):
    where = ("--run", "r", "--store", s3_store.uri)
    succeeds("preprocess", *where, "--recipe", recipe, env=pod())
    before = moved()
    succeeds("train", *where, env=pod())
    adapter = json.loads(s3_store.read("runs/r/train/adapter/qatune.json"))
    assert adapter["base"]["revision"] == before


def test_a_damaged_mirror_ends_training_in_one_line(recipe, pod, s3_store):
    where, place = ("--run", "r", "--store", s3_store.uri), pod()
    succeeds("preprocess", *where, "--recipe", recipe, env=place)
    (key,) = (key for key in s3_store.keys("models/") if key.endswith("model.safetensors"))
    data = s3_store.read(key)
    s3_store.delete(key)
    s3_store.create(key, data[:-1] + bytes([data[-1] ^ 1]))
    line = fails(66, "train", *where, env=pod(NO_HUB))
    assert f"{s3_store.uri}/{key}: damaged" in line
