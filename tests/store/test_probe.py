"""qatune doctor: what would fail, before it does."""

import pytest
from tests.support.qatune_command import qatune

from qatune.errors import NotAllowedError, UnavailableError
from qatune.store.memory import MemoryStore
from qatune.store.probe import probe


def test_a_store_that_works_is_left_as_it_was():
    store = MemoryStore()
    assert [line.split(": ")[1] for line in probe(store)] == [
        "writes", "reads", "lists", "creates once", "deletes",
    ]  # fmt: skip
    assert list(store.keys("")) == []


class Forgetful(MemoryStore):
    def read(self, key, *_, **__):
        return b"something else"


class Overwriting(MemoryStore):
    def create(self, key, source):
        self.delete(key)
        return super().create(key, source)


class ReadOnly(MemoryStore):
    def create(self, key, source):
        raise NotAllowedError("refused")


@pytest.mark.parametrize(
    ("kind", "error", "part"),
    [
        (Forgetful, UnavailableError, "reads"),
        (Overwriting, UnavailableError, "creates once"),
        (ReadOnly, NotAllowedError, "refused"),
    ],
)
def test_a_store_that_does_not(kind, error, part):
    store = kind()
    with pytest.raises(error, match=part):
        list(probe(store))
    assert list(store.keys("")) == []


def test_the_command_tells_what_works(tmp_path):
    done = qatune("doctor", "evaluate", "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    assert "creates once" in done.stdout
    assert done.stdout.splitlines()[-1] == "libraries of evaluate: load"


def test_a_stage_that_is_none(tmp_path):
    done = qatune("doctor", "training", "--store", str(tmp_path / "store"))
    assert done.returncode == 64
    assert "'training' is not one of" in done.stderr
