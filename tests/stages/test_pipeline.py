"""The whole run as a user starts it: files in, adapter, answers and report out."""

import csv
import json
import os
import time
from pathlib import Path

import pytest
import yaml
from tests.support.qatune_command import fails, qatune
from tests.support.tiny import tiny_gpt2, tiny_llama

from qatune.store import manifests
from qatune.store.opening import open_store

TINY = {"gpt2": (tiny_gpt2, ["c_attn", "c_fc"]), "llama": (tiny_llama, "all-linear")}
STAGES = ("preprocess", "train", "generate", "evaluate")
ROWS = 48


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name)) for name, (make, _) in TINY.items()}


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        writer.writerows((f"What is item {n}?", f"It is the {n}th.") for n in range(ROWS))
    return path


def write_recipe(path, model, target_modules, source, **changed):
    fields = {
        "model": {"source": str(model), "quantization": "nf4", "dtype": "float32"},
        "data": {"source": str(source), "max_length": 100, "split": {"test_size": 8}},
        "train": {
            "lora": {"r": 4, "lora_dropout": 0.1, "target_modules": target_modules},
            "learning_rate": "1e-2",
            "optim": "paged_adamw_32bit",
            "max_steps": 6,
            "eval_steps": 3,
            "save_steps": 2,
            "logging_steps": 2,
        },
        "generate": {"max_new_tokens": 8, "chunk_rows": 4},
    }
    for section, values in changed.items():
        fields[section] |= values
    path.write_text(yaml.safe_dump({"recipe": fields}))
    return path


@pytest.fixture
def make_recipe(tmp_path, models, questions):
    def make(name, source=questions, **changed):
        return write_recipe(tmp_path / "tiny.yaml", models[name], TINY[name][1], source, **changed)

    return make


def check_finished_run(store, run, held_out):
    found = {stage: manifests.load(store, run, stage) for stage in STAGES}
    parents = {"train": "preprocess", "evaluate": "generate"}
    for child, parent in parents.items():
        assert found[child][0].parents[parent] == found[parent][1]
    shown = {ref.key.split(f"runs/{run}/")[1] for ref in found["evaluate"][0].inputs}
    assert {
        "preprocess/lengths.json",
        "train/metrics.jsonl",
        "preprocess/train-00000.parquet",
    } <= shown
    assert "generate/parts/part-00000-00000.jsonl" in shown
    train = found["train"][0]
    assert train.counters["heldout_loss_after"] < train.counters["heldout_loss_before"]
    assert any("paged_adamw_32bit" in note for note in train.notes)
    assert all(manifest.seconds["starting"] > 0 for manifest, _ in found.values())
    generate = found["generate"][0].counters
    assert (generate["rows"], generate["answers"], generate["errors"]) == (held_out, held_out, 0)
    metrics = json.loads(store.read(f"runs/{run}/evaluate/metrics.json"))
    loss = metrics["measures"]["loss_per_token"]
    assert loss["base"] == pytest.approx(train.counters["heldout_loss_before"], rel=1e-3)
    assert loss["adapter"] == pytest.approx(train.counters["heldout_loss_after"], rel=1e-3)
    assert b"<html" in store.read(f"runs/{run}/evaluate/report.html")


def check_second_run_does_nothing(*arguments, env=None):
    start = time.monotonic()
    again = qatune(*arguments, env=env)
    took = time.monotonic() - start
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert took < 2


def test_gpt2_through_all_stages_into_a_folder(make_recipe, tmp_path):
    command = ("run", make_recipe("gpt2"), "--store", tmp_path / "store")
    done = qatune(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    check_finished_run(open_store(str(tmp_path / "store")), "tiny", 8)
    assert "loss per token from" in done.stdout
    assert "runs/tiny/evaluate/report.html" in done.stdout
    for line in done.stderr.splitlines():
        json.loads(line)  # in a pod every line is for a log collector
    check_second_run_does_nothing(*command)
    line = fails(78, *command, "--set", "train.learning_rate=1e-3")
    assert "(train.learning_rate: 0.01 there, 0.001 here)" in line
    assert "choose another name for the run" in line


def test_llama_stage_by_stage_into_s3(make_recipe, s3_environment, s3_store):
    recipe = make_recipe("llama")
    where = ("--store", s3_store.uri, "--run", "tiny")
    early = fails(66, "train", *where, "--recipe", recipe)
    assert "preprocess of run 'tiny' is not complete" in early
    for stage in STAGES:
        done = qatune(stage, *where, *(("--recipe", recipe) if stage == "preprocess" else ()))
        assert done.returncode == 0, done.stderr[-3000:]
    check_finished_run(s3_store, "tiny", 8)
    check_second_run_does_nothing("evaluate", *where)
    asked = qatune("ask", "tiny", "What is item 3?", "--store", s3_store.uri)
    assert asked.returncode == 0, asked.stderr[-2000:]
    assert "base" in asked.stdout
    assert "adapter" in asked.stdout


MBPP = Path(os.environ.get("QATUNE_TEST_DATA", "/nonexistent")) / "mbpp.csv"


@pytest.mark.skipif(not MBPP.is_file(), reason="QATUNE_TEST_DATA names no folder with mbpp.csv")
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_real_questions(kind, make_recipe, tmp_path, request):
    uri = str(tmp_path / "store") if kind == "folder" else request.getfixturevalue("s3_store").uri
    recipe = make_recipe(
        "llama",
        MBPP,
        data={"columns": {"id": "task_id"}, "max_length": 256, "split": {"test_size": 0.1}},
    )
    done = qatune("run", recipe, "--store", uri, "--run", "mbpp")
    assert done.returncode == 0, done.stderr[-3000:]
    store = open_store(uri)
    counters = manifests.load(store, "mbpp", "preprocess")[0].counters
    assert counters["rows_read"] == 974
    assert (
        counters["rows_kept"]
        + counters["rejected_too_long"]
        + counters.get("rejected_duplicate", 0)
        == 974
    )
    check_finished_run(store, "mbpp", counters["rows_test"])


def test_without_its_own_adapter_a_run_trains_nothing(make_recipe, tmp_path):
    place = ("--store", tmp_path / "store", "--set", "generate.adapter=none")
    done = qatune("run", make_recipe("gpt2"), *place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "store/runs/tiny/train").exists()
    check_second_run_does_nothing("run", make_recipe("gpt2"), *place)
    line = fails(66, "report", "tiny", *place[:2], "--output", tmp_path / "no/such/folder.html")
    assert "choose another --output" in line
