import os
from pathlib import Path

import pytest
from tests.support import e2e


@pytest.fixture(scope="session")
def bucket(tmp_path_factory):
    e2e.require()
    rows = Path(os.environ.get("QATUNE_TEST_DATA", "/nonexistent")) / "mbpp.csv"
    if not rows.is_file():
        pytest.skip("QATUNE_TEST_DATA names no folder with mbpp.csv")
    return e2e.bucket(tmp_path_factory.mktemp("model"), rows)


@pytest.fixture(scope="module")
def namespace():
    e2e.require()
    yield from e2e.namespace()
