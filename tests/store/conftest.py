import pytest


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Two runs by the real stages, in memory: to be copied, not changed."""
    from tests.support import verifiable  # which loads torch

    return verifiable.made(tmp_path_factory.mktemp("verifiable"))
