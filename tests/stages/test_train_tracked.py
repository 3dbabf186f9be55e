"""Training with train.report_to: to the real MLflow, through a stop, and from one process alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import tiny, training
from tests.support.trackers import mlflow_runs

from qatune import tracking
from qatune.errors import BadRecipeError, InterruptedRunError
from qatune.model.journal import Journal
from qatune.model.recorder import Recorder
from qatune.model.supervision import Supervision
from qatune.stages import train
from qatune.store.memory import MemoryStore


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return tmp_path


def test_a_stopped_training_goes_on_in_the_same_tracked_run(llama, mlflow, monkeypatch):
    ours, store = training.recipe(llama, report_to=("mlflow",)), MemoryStore()
    ends = Recorder.on_step_end

    def interrupted(self, args, state, control, **rest):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        ends(self, args, state, control, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_step_end", interrupted)
        with pytest.raises(InterruptedRunError):
            train.run(training.prepared(store, ours))
    (stopped,) = mlflow_runs(mlflow)
    assert (stopped.state, [at for at, _ in stopped.curves["loss"]]) == ("stopped", [1, 2, 3, 4, 5])
    train.run(training.prepared(store, ours))
    (found,) = mlflow_runs(mlflow)
    text = store.read(f"runs/{training.RUN}/train/metrics.jsonl").decode()
    lines = [json.loads(line) for line in text.splitlines()]
    assert (found.name, found.state) == (training.RUN, "finished")
    for name in ("loss", "learning_rate", "grad_norm", "epoch", "heldout_loss"):
        wanted = [(line["step"], line[name]) for line in lines if name in line]
        assert found.curves[name] == wanted, name


def test_a_tracker_that_fails_costs_a_note_and_changes_no_output(llama, monkeypatch):
    class Broken:
        def __init__(self, *_):
            raise OSError("gone")

    monkeypatch.setitem(tracking._SERVICES, "wandb", Broken)
    store = MemoryStore()
    stage = training.prepared(store, training.recipe(llama, report_to=("wandb",), max_steps=2))
    train.run(stage)
    (note,) = (note for note in stage.notes if "report_to" in note)
    assert note.startswith("train.report_to: wandb did not take all figures (gone)")
    alone = MemoryStore()
    train.run(training.prepared(alone, training.recipe(llama, max_steps=2)))
    for name in ("metrics.jsonl", "checks.json", "adapter/adapter_model.safetensors"):
        key = f"runs/{training.RUN}/train/{name}"
        assert store.read(key) == alone.read(key)


def test_a_missing_library_is_said_before_anything_is_loaded(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(train, "load_model", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(BadRecipeError, match=r"install qatune\[mlflow\]"):
        train.run(training.prepared(MemoryStore(), training.recipe(llama, report_to=("mlflow",))))


def test_only_the_first_process_reports(llama, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(tracking, "streaming", lambda *_: opened.append(1))
    stage = training.prepared(MemoryStore(), training.recipe(llama, report_to=("mlflow",)))
    journal = Journal(tmp_path / "metrics.jsonl")
    with Supervision(stage, journal, 12, first=False).following():
        assert journal.readers == opened == []


@pytest.mark.parametrize("service", ["mlflow", "wandb"])
def test_the_process_ends_though_the_service_is_down(service, tmp_path):
    """What these libraries leave behind at their failure must not keep the pod, and its GPU."""
    script = f"""
from tests.unit.test_tracking import ROWS, recipe, step, tracking
tracking.PATIENCE_SECONDS = 2
with tracking.streaming(recipe("{service}"), "mine", ROWS, (), print) as send:
    send([step(1)])
"""
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment, cwd=Path.cwd(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert f"{service} did not take all figures" in done.stdout
