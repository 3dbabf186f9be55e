"""Checkpoints on their way: training waits for none of them, and none of them is lost."""

import threading
import time

import pytest

from qatune.errors import NotAllowedError, UnavailableError
from qatune.model import uploads
from qatune.model.uploads import Saved, uploading


@pytest.fixture
def checkpoint(tmp_path):
    def made(step):
        folder = tmp_path / f"leaving-{step}"
        folder.mkdir()
        (folder / "weights").write_text(str(step))
        return step, folder

    return made


class Gate:
    """A store that takes a checkpoint when it is told to."""

    def __init__(self, *failures):
        self.open, self.busy = threading.Event(), threading.Event()
        self.failures, self.sent = list(failures), []

    def send(self, step, folder):
        self.busy.set()
        assert self.open.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append((step, (folder / "weights").read_text()))


def test_training_waits_for_no_upload_and_of_those_that_wait_the_newest_is_sent(checkpoint):
    gate, saved = Gate(), Saved()
    with uploading(gate.send, saved) as sending:
        sending.begin(*checkpoint(1))
        gate.busy.wait(10)
        began = time.monotonic()
        made = [checkpoint(step) for step in (2, 3, 4)]
        for each in made:
            sending.begin(*each)
        assert time.monotonic() - began < 1
        assert saved.step == 0
        assert [folder.exists() for _, folder in made] == [False, False, True]
        gate.open.set()
        sending.wait()
    assert gate.sent == [(1, "1"), (4, "4")]
    assert saved.step == 4
    assert not made[-1][1].exists()


def test_a_store_that_is_away_is_asked_again_and_then_given_the_newest(checkpoint, monkeypatch):
    monkeypatch.setattr(uploads, "_PAUSE_SECONDS", 0.01)
    gate, saved = Gate(UnavailableError("away"), UnavailableError("away")), Saved()
    with uploading(gate.send, saved) as sending:
        sending.begin(*checkpoint(1))
        gate.busy.wait(10)
        sending.begin(*checkpoint(2))
        gate.open.set()
        sending.wait()
    assert gate.sent == [(2, "2")]
    assert saved.step == 2


def test_a_store_that_stays_away_ends_the_training(checkpoint, monkeypatch):
    monkeypatch.setattr(uploads, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(uploads, "PATIENCE_SECONDS", 0.05)
    gate, saved = Gate(*[UnavailableError("away")] * 1000), Saved()
    gate.open.set()
    with uploading(gate.send, saved) as sending:
        sending.begin(*checkpoint(1))
        with pytest.raises(UnavailableError):
            sending.wait()
    assert saved.step == 0


def test_any_other_failure_comes_out_of_the_next_call(checkpoint):
    gate = Gate(NotAllowedError("refused"))
    gate.open.set()
    with uploading(gate.send, Saved()) as sending:
        sending.begin(*checkpoint(1))
        with pytest.raises(NotAllowedError):
            sending.wait()
        with pytest.raises(NotAllowedError):
            sending.begin(*checkpoint(2))


def train_until(error, gate, saved, taken):
    with uploading(gate.send, saved) as sending:
        sending.begin(*taken)
        gate.busy.wait(10)
        raise error


def test_a_failure_of_training_waits_for_what_is_being_sent(checkpoint):
    gate, saved = Gate(), Saved()
    threading.Timer(0.2, gate.open.set).start()
    with pytest.raises(ValueError, match="of training"):
        train_until(ValueError("of training"), gate, saved, checkpoint(1))
    assert saved.step == 1


def test_an_end_at_once_waits_for_nothing(checkpoint):
    gate = Gate()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train_until(KeyboardInterrupt(), gate, Saved(), checkpoint(1))
    assert time.monotonic() - began < 1
    gate.open.set()


def test_what_a_newer_one_replaces_while_the_store_is_away_leaves_no_files(checkpoint, monkeypatch):
    monkeypatch.setattr(uploads, "_PAUSE_SECONDS", 0.05)
    gate, saved = Gate(*[UnavailableError("away") for _ in range(3)]), Saved()
    gate.open.set()
    with uploading(gate.send, saved) as sending:
        made = []
        for step in range(1, 9):
            made.append(checkpoint(step))
            sending.begin(*made[-1])
            time.sleep(0.03)
        sending.wait()
    assert saved.step == 8
    assert not [folder for _, folder in made if folder.exists()]
