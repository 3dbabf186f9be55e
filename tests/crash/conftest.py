"""`make crash` sets QATUNE_CRASH=all; otherwise a few of the kills stand for the others."""

import os

import pytest
from tests.support import crash_runs, crashing, tiny
from tests.support.crashing import Tally

_TALLY = pytest.StashKey[Tally]()


def pytest_configure(config):
    config.stash[_TALLY] = Tally()


@pytest.fixture(scope="session")
def tally(request):
    return request.config.stash[_TALLY]


@pytest.fixture(scope="session")
def every():
    """Whether all kills are wanted."""
    return os.environ.get("QATUNE_CRASH") == "all"


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """A process that has done the imports, and forks."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return crashing.forkserver()


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return tiny.tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def runs(forks, llama, tally, tmp_path_factory):
    return crash_runs.Runs(forks, llama, tally, tmp_path_factory.mktemp("crashes"))


def pytest_terminal_summary(terminalreporter, config):
    sums = config.stash[_TALLY].sums()
    if not sums:
        return
    terminalreporter.section("kills")
    terminalreporter.write_line("| stage | how | kills | starts | results that differ |")
    terminalreporter.write_line("| --- | --- | --- | --- | --- |")
    for (stage, how), (kills, starts, differ) in sorted(sums.items()):
        terminalreporter.write_line(f"| {stage} | {how} | {kills} | {starts} | {differ} |")
    kills, starts, differ = (sum(column) for column in zip(*sums.values(), strict=True))
    terminalreporter.write_line(f"| all | | {kills} | {starts} | {differ} |")
