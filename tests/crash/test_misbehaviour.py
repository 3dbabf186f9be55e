"""A bucket that misbehaves: every stage ends rightly, or stops by its code and goes on later."""

import pytest
from tests.support import crashing, faulty_s3
from tests.support.misbehaviour import Misbehaviour

from qatune import STAGES
from qatune.errors import NotAllowedError, UnavailableError

STOPPED = {UnavailableError.exit_code, NotAllowedError.exit_code}


@pytest.fixture
def server():
    with faulty_s3.running() as server:
        yield server


@pytest.mark.parametrize("stage", STAGES)
def test_a_bucket_that_misbehaves_costs_time_and_nothing_else(runs, every, server, stage):
    crashes = runs.crashes(stage)
    wanted, _ = crashes.alone()
    drawn = []
    for seed in range(8 if every else 1):
        place = crashes.place()
        server.objects.clear()
        server.earlier.clear()
        starts = crashing.in_bucket(crashes, server, place)
        server.plan = Misbehaviour(f"{stage}:{seed}")
        ends = []
        crashes.until_done(place, ends, starts, stops=STOPPED, tries=30)
        drawn += server.plan.drawn
        server.plan = None
        crashes.judge(place, ends, "a bucket that misbehaves", wanted, crashing.bucket_of(server))
    assert len(set(drawn)) >= (5 if every else 1), sorted(set(drawn))


@pytest.mark.parametrize("stage", STAGES)
def test_clocks_an_hour_apart_are_named_and_then_it_goes_on(runs, server, stage):
    crashes = runs.crashes(stage)
    place = crashes.place()
    starts = crashing.in_bucket(crashes, server, place)
    server.skew = 3600
    assert crashes.once(place, starts[0], None) == UnavailableError.exit_code
    assert "clock and the server's differ" in crashes.said(place)
    server.skew = 0
    crashes.until_done(place, [], starts, tries=1)
