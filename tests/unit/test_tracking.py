"""Curves and measures in MLflow and Weights & Biases, by their own libraries."""

import json
import sys
import threading
import time

import pytest
from tests.support.trackers import mlflow_runs, wandb_runs
from tests.support.waiting import wait_for

from qatune import cli, tracking
from qatune.config import Data, Model, Recipe, Train
from qatune.errors import BadRecipeError
from qatune.importing import check_trackers
from qatune.store import artifacts
from qatune.store.folder import FolderStore

ROWS = "0" * 64
METRICS = {
    "measures": {
        "loss_per_token": {"base": 2.0, "adapter": 1.5, "difference": -0.5},
        "pass_at_1": {"base": None, "adapter": None, "difference": None},
    }
}


def recipe(*report_to, **train):
    return Recipe(
        model=Model(source="m"),
        data=Data(source="d.csv"),
        train=Train(report_to=report_to, **train),
    )


def step(number):
    return {"step": number, "epoch": number / 10, "loss": 2.0 - number / 10, "tokens": 7,
            "learning_rate": 1e-4, "grad_norm": None if number == 2 else 0.5}  # fmt: skip


def heldout(number):
    return {"step": number, "heldout_loss": 3.0 - number / 10, "heldout_tokens": 9}


def stream(ours, lines, earlier=(), run="mine", rows=ROWS):
    notes = []
    with tracking.streaming(ours, run, rows, earlier, notes.append) as send:
        for line in lines:
            send([line])
    return notes


@pytest.fixture(autouse=True)
def _fresh_wandb():
    """It reads the environment once a process."""
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()


@pytest.fixture(params=["mlflow", "wandb"])
def service(request, tmp_path, monkeypatch):
    """Name of the service, and how to read what it has."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    read = mlflow_runs if request.param == "mlflow" else wandb_runs
    return request.param, lambda: read(tmp_path)


def test_curves_and_fields_arrive_under_the_runs_name(service):
    name, read = service
    assert stream(recipe(name), [heldout(0), step(1), step(2), heldout(2)]) == []
    (found,) = read()
    assert (found.name, found.project, found.state) == ("mine", "qatune", "finished")
    assert found.curves == {
        "loss": [(1, 1.9), (2, 1.8)],
        "learning_rate": [(1, 1e-4), (2, 1e-4)],
        "grad_norm": [(1, 0.5)],
        "epoch": [(1, 0.1), (2, 0.2)],
        "heldout_loss": [(0, 3.0), (2, 2.8)],
    }
    assert found.fields["train.lora.r"] == "16"
    assert found.fields["model.source"] == "m"


def test_a_resumed_run_goes_on_in_the_same_one_and_doubles_no_step(service):
    name, read = service
    ours = recipe(name)
    lines = [heldout(0), step(1), step(2), heldout(2), step(3), step(4), heldout(4)]
    with pytest.raises(KeyError):
        stream_and_fail(ours, lines[:4])
    assert stream(ours, lines[4:], earlier=lines[:4]) == []
    (found,) = read()
    assert found.state == "finished"
    assert [at for at, _ in found.curves["loss"]] == [1, 2, 3, 4]
    assert [at for at, _ in found.curves["heldout_loss"]] == [0, 2, 4]


def stream_and_fail(ours, lines):
    with tracking.streaming(ours, "mine", ROWS, (), pytest.fail) as send:
        send(lines)
        raise KeyError


def test_a_run_that_was_stopped_is_not_shown_as_finished(service):
    name, read = service
    with pytest.raises(KeyError):
        stream_and_fail(recipe(name), [step(1)])
    (found,) = read()
    assert found.state == "stopped"


def test_other_rows_and_other_recipes_are_other_runs(service):
    name, read = service
    stream(recipe(name), [step(1)])
    stream(recipe(name), [step(1)], rows="1" * 64)
    stream(recipe(name, seed=1), [step(1)])
    assert len(read()) == 3


def test_the_final_measures_join_the_curves(service):
    name, read = service
    stream(recipe(name), [step(1)])
    assert tracking.report_metrics(recipe(name), "mine", ROWS, METRICS) == []
    (found,) = read()
    assert {key: found.summary[key] for key in found.summary if "loss_per" in key} == {
        "base/loss_per_token": 2.0,
        "adapter/loss_per_token": 1.5,
        "difference/loss_per_token": -0.5,
    }
    assert found.curves["loss"] == [(1, 1.9)]


def test_projects_have_the_names_that_the_ecosystem_gives_them(service, monkeypatch):
    name, read = service
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    stream(recipe(name), [step(1)])
    assert [found.project for found in read()] == ["theirs"]


def test_what_an_earlier_start_could_not_send_is_sent_to_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    stream(recipe("mlflow"), [step(1), step(2)])
    stream(recipe("mlflow"), [step(4)], earlier=[step(1), step(2), step(3)])
    (found,) = mlflow_runs(tmp_path)
    assert [at for at, _ in found.curves["loss"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("service", ["mlflow", "wandb"])
def test_a_service_that_is_down_is_a_warning_and_a_note(service, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name, value in {"MODE": "online", "BASE_URL": "http://127.0.0.1:9", "API_KEY": "0" * 40,
                        "DIR": str(tmp_path), "INIT_TIMEOUT": "3"}.items():  # fmt: skip
        monkeypatch.setenv(f"WANDB_{name}", value)
    began = time.monotonic()
    (note,) = stream(recipe(service), [step(1)])
    assert time.monotonic() - began < 30
    assert note.startswith(f"train.report_to: {service} did not take all figures (")
    (line,) = (json.loads(line) for line in capfd.readouterr().err.splitlines() if "{" in line)
    assert line["level"] == "warning"
    assert line["message"].startswith(f"train.report_to: {service} cannot be reached: trying again")
    (sentence,) = tracking.report_metrics(recipe(service), "mine", ROWS, METRICS)
    assert sentence.startswith(f"train.report_to: {service} did not take all figures (")


def test_a_missing_key_is_said_and_not_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (note,) = stream(recipe("wandb"), [step(1)])
    assert "wandb did not take all figures (WANDB_API_KEY is not set)" in note


class Service:
    """Fails so many times, then takes what comes."""

    def __init__(self, failures=0, wait=None):
        self.failures, self.wait, self.taken, self.ended = failures, wait, [], None

    def __call__(self, *_):
        return self

    def step(self, lines):
        if self.wait:
            self.wait.wait()
        if self.failures:
            self.failures -= 1
            raise OSError("away")
        self.taken += [line["step"] for line in lines]

    def close(self, *, complete):
        self.ended = complete


@pytest.fixture
def instead(monkeypatch):
    def put(service):
        monkeypatch.setitem(tracking._SERVICES, "mlflow", service)
        return service

    return put


def test_a_service_that_comes_back_gets_all_in_order(instead, monkeypatch, capfd):
    monkeypatch.setattr(tracking, "_PAUSE_SECONDS", 0.01)
    service = instead(Service(failures=3))
    notes = []
    with tracking.streaming(recipe("mlflow"), "mine", ROWS, (), notes.append) as send:
        for number in (1, 2, 3):
            send([step(number)])
        wait_for("all lines", 10, lambda: service.taken == [1, 2, 3])
    assert notes == []
    assert (service.taken, service.ended) == ([1, 2, 3], True)
    assert capfd.readouterr().err.count("cannot be reached") == 1


@pytest.mark.parametrize(("failures", "taken"), [(1, [1]), (2, [])])
def test_a_service_that_is_away_at_the_end_gets_one_more_try(instead, failures, taken):
    service, notes = instead(Service(failures)), []
    with tracking.streaming(recipe("mlflow"), "mine", ROWS, (), notes.append) as send:
        send([step(1)])
        wait_for("a failure", 10, lambda: service.failures < failures)
    assert service.taken == taken
    assert ["did not take all figures (away)" in note for note in notes] == [True] * (not taken)


def test_no_step_waits_and_the_end_only_so_long(instead, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 0.2)
    held = threading.Event()
    instead(Service(wait=held))
    began = time.monotonic()
    (note,) = stream(recipe("mlflow"), [step(number) for number in range(1, 50)])
    assert time.monotonic() - began < 2
    assert "mlflow did not take all figures (no answer for 0 s)" in note
    held.set()


def test_a_library_that_is_missing_is_found_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    arguments = ["demo", "--store", str(tmp_path), "--set", "train.report_to=[mlflow, wandb]"]
    wanted = r"recipe\.train\.report_to: wandb is not installed; install qatune\[wandb\] or take"
    with pytest.raises(BadRecipeError, match=wanted):
        cli.cli(["run", *arguments], standalone_mode=False)
    assert not list(FolderStore(str(tmp_path)).keys(""))
    check_trackers(["mlflow"])


@pytest.mark.parametrize("changed", ["generate.adapter=none", "train.max_steps=3"])
def test_no_library_is_asked_for_where_nothing_is_trained(tmp_path, monkeypatch, changed):
    """Without an adapter, or with one that is trained already; then the first stage is begun."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(cli, "_run_stage", lambda *_, **__: pytest.fail("begun"))
    trained = "max_steps" in changed
    monkeypatch.setattr(artifacts, "is_complete", lambda *given: given[2] == "train" and trained)
    given = ["--set", "train.report_to=[wandb]", "--set", changed]
    with pytest.raises(pytest.fail.Exception, match="begun"):
        cli.cli(["run", "demo", "--store", str(tmp_path), *given], standalone_mode=False)


def test_nothing_is_imported_or_sent_unless_asked(monkeypatch):
    monkeypatch.setattr(tracking, "_Stream", lambda *_: pytest.fail("started"))
    assert stream(recipe(), [step(1)]) == []
    assert tracking.report_metrics(recipe(), "mine", ROWS, METRICS) == []
