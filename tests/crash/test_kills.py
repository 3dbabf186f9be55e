"""Killed at every call of the store and at any moment, each stage ends as one left alone."""

import random
import time

import pytest
from tests.support import crashing
from tests.support.crash_runs import verified
from tests.support.crashing import DONE, KILLED
from tests.support.mortal_store import Kill

from qatune import STAGES

CASES = [
    ("preprocess", "fp32", "random", 1),
    ("train", "fp32", "random", 1),
    ("train", "bf16", "group_by_length", 5),
    ("train", "nf4", "group_by_length", 5),
    ("generate", "fp32", "random", 1),
    ("evaluate", "fp32", "random", 1),
]
"""Stage, model, order of rows; each how-manieth kill is tried: a training is like the others.

An odd number, as every other kill is one after a call.
"""
FEW = 3


def spread(kills, every, step):
    """Return each kill of `step`, or a few over all of them."""
    return kills[::step] if every else kills[len(kills) // 7 :: len(kills) // FEW | 1]


@pytest.mark.parametrize(("stage", "kind", "order", "step"), CASES)
def test_killed_at_any_call_of_the_store(runs, every, *, stage, kind, order, step):
    crashes = runs.crashes(stage, kind, order)
    wanted, calls = crashes.alone()

    def trial(shard, kill):
        place = crashes.place()
        ends = [crashes.once(place, start, None) for start in crashes.starts[:shard]]
        ends.append(crashes.once(place, crashes.starts[shard], kill))
        # A training that skips a checkpoint, as a newer one is there, makes fewer calls.
        assert ends[-1] == KILLED or (stage == "train" and ends[-1] == DONE), crashes.said(place)
        crashes.until_done(place, ends)
        crashes.judge(place, ends, "at a call of the store", wanted)

    kills = [
        (shard, Kill(call, after))
        for shard, made in enumerate(calls)
        for call in range(1, made + 1)
        for after in (False, True)
    ]
    crashing.side_by_side(trial, spread(kills, every, step))


@pytest.mark.parametrize("stage", STAGES)
def test_killed_again_and_again_at_random_moments(runs, every, stage):
    crashes = runs.crashes(stage)
    began = time.monotonic()
    wanted, _ = crashes.alone()
    each = (time.monotonic() - began) / len(crashes.starts)

    def trial(seed):
        draw, place, ends = random.Random(f"{stage}:{seed}"), crashes.place(), []
        for _ in range(3):
            start = draw.choice(crashes.starts)
            ends.append(crashes.once(place, start, None, draw.uniform(0.1, each)))
        crashes.until_done(place, ends)
        crashes.judge(place, ends, "at a random moment", wanted)

    crashing.side_by_side(trial, [(seed,) for seed in range(10 if every else 1)])
    assert crashes.tally.kills("at a random moment", stage) or not every


def test_two_workers_at_one_shard_cannot_harm_each_other(runs, every):
    """As after a split of the network; one of them is killed at a random moment."""
    crashes = runs.crashes("generate")
    wanted, _ = crashes.alone()
    together = []

    def trial(seed):
        draw, place = random.Random(seed), crashes.place()
        zombie = crashes.begun(place, crashes.starts[0], None)
        time.sleep(draw.uniform(0, 0.2))
        heir = crashes.begun(place, crashes.starts[0], None)
        time.sleep(draw.uniform(0, 0.4))
        together.append(crashing.ended(zombie, 0) is None and crashing.ended(heir, 0) is None)
        zombie.kill()
        ends = [crashes.end_of(place, process) for process in (zombie, heir)]
        assert ends[-1] == DONE, crashes.said(place)
        crashes.until_done(place, ends)
        crashes.judge(place, ends, "one of two at a shard", wanted)

    crashing.side_by_side(trial, [(seed,) for seed in range(10 if every else 1)])
    assert any(together) or not every


@pytest.mark.parametrize("stage", STAGES)
def test_a_fresh_process_is_killed_at_random_moments(runs, every, stage):
    """By the command line, with its imports; and so is each process that goes on."""
    crashes = runs.crashes(stage)
    wanted, _ = crashes.alone()
    place, began = crashes.place(), time.monotonic()
    assert crashing.fresh(crashes.starts[0], place).wait() == DONE, crashes.said(place)
    whole = time.monotonic() - began

    def trial(seed):
        draw, place, ends = random.Random(f"{stage}:{seed}"), crashes.place(), []
        for _ in range(3 if every else 1):
            process = crashing.fresh(draw.choice(crashes.starts), place)
            ends.append(crashing.killed_after(process, draw.uniform(0.3, 0.95) * whole))
        crashes.until_done(place, ends)
        crashes.judge(place, ends, "a fresh process, at a random moment", wanted)

    crashing.side_by_side(trial, [(seed,) for seed in range(6 if every else 1)])
    assert crashes.tally.kills("a fresh process", stage) or not every


def test_what_was_killed_can_be_verified(runs):
    crashes = runs.crashes("evaluate")
    place = crashes.place()
    assert crashes.once(place, crashes.starts[0], Kill(20, after=True)) == KILLED
    crashes.until_done(place, [])
    verified(place / "store")


def test_enough_was_killed(every, tally):
    """The last one here: it counts what those above have tried."""
    assert tally.kills() >= (500 if every else 20)
    assert tally.kills("a fresh process") >= (50 if every else 2)
