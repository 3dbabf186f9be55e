import os
from pathlib import Path

import pytest
from tests.support import e2e


@pytest.fixture(scope="session")
def bucket(tmp_path_factory):
    e2e.require("QATUNE_TEST_DATA")
    rows = Path(os.environ["QATUNE_TEST_DATA"]) / "mbpp.csv"
    return e2e.bucket(tmp_path_factory.mktemp("model"), rows)


@pytest.fixture(scope="module")
def namespace():
    e2e.require()
    yield from e2e.namespace()
