"""What is said of a training's curves, and how often it is said of one that is well."""

import numpy as np
import pytest

from qatune.data.learning import Watch

LEARNS = 0.2  # share by which the loss falls


def lines(losses, norms=None, heldout=()):
    measured = dict(heldout)
    if 0 in measured:
        yield {"step": 0, "heldout_loss": measured[0]}
    for step, loss in enumerate(losses, start=1):
        norm = 1.0 if norms is None else norms[step - 1]
        yield {"step": step, "loss": float(loss), "grad_norm": norm}
        if step in measured:
            yield {"step": step, "heldout_loss": measured[step]}


def watched(losses, *, norms=None, heldout=(), steps=None, max_grad_norm=0.3):
    """What is said on the way, and at the end."""
    watch = Watch(steps or len(losses), max_grad_norm)
    return watch.see(lines(losses, norms, heldout)), watch.verdict()


def noisy(rng, shape, noise):
    return np.asarray(shape) * np.exp(rng.normal(0, noise, len(shape)))


def test_an_explosion_is_named_as_it_comes_and_counted_at_the_end():
    norms = [0.5] * 100
    norms[39], norms[69], norms[70] = 12.3, 8.0, None
    said, verdict = watched([2 - at / 100 for at in range(100)], norms=norms)
    (now,) = said
    assert now.startswith(
        "step 40: the gradient exploded: its norm is 12.3, that of the steps before was 0.5 "
        "(their median): the step was cut to train.max_grad_norm 0.3"
    )
    (then,) = verdict
    assert "step 40" in then
    assert "the first of 2 such steps of 100" in then


def test_gradients_that_are_not_cut_are_said_so():
    said, _ = watched([1.0] * 30, norms=[0.5] * 29 + [9.0], max_grad_norm=0)
    assert "it was not cut, as train.max_grad_norm is 0" in said[0]


@pytest.mark.parametrize(
    ("norms", "max_grad_norm"),
    [
        ([0.5] * 29 + [4.9], 0.3),  # below ten times the median
        ([0.01] * 29 + [0.2], 0.3),  # above it, but not to be cut
        ([0.5] * 19 + [90.0], 0.3),  # with too few before it
        ([None] * 20 + [90.0], 0.3),
    ],
)
def test_no_explosion(norms, max_grad_norm):
    losses = [1 - at / 100 for at in range(len(norms))]
    assert watched(losses, norms=norms, max_grad_norm=max_grad_norm)[0] == []


def test_steps_that_float16_skipped():
    losses = [2 - at / 500 for at in range(500)]
    few = [None if at % 25 == 0 else 1.0 for at in range(500)]
    many = [None if at % 15 == 0 else 1.0 for at in range(500)]
    assert watched(losses, norms=few)[1] == []
    (now,), (sentence,) = watched(losses, norms=many)
    assert now.startswith("21 of 301 steps taught nothing so far: their gradients overflowed in fl")
    assert sentence.startswith("34 of 500 steps taught nothing: their gradients overflowed")


def test_a_flat_curve_is_told_of_on_the_way_and_at_the_end():
    rng = np.random.default_rng(1)
    losses = noisy(rng, [2.0] * 1000, 0.05)
    said, verdict = watched(losses, heldout=[(0, 2.0), (100, 1.99), (1000, 1.995)])
    assert [sentence.split(":")[0] for sentence in said] == [
        "the training loss has not fallen so far"
    ]
    assert "in the last 50 of 250" in said[0]
    assert [sentence.split(":")[0] for sentence in verdict] == ["the training loss did not fall"]
    assert "in the first 200 steps" in verdict[0]


def test_a_short_run_is_not_judged_on_the_way():
    said, verdict = watched([2.0] * 200, heldout=[(0, 2.0)])
    assert said == []
    assert len(verdict) == 1
    assert watched([2.0] * 49, heldout=[(0, 2.0)]) == ([], [])


def test_a_held_out_loss_that_fell_vouches_for_the_curve():
    losses = noisy(np.random.default_rng(1), [2.0] * 1000, 0.05)
    assert watched(losses, heldout=[(0, 2.0), (100, 1.9)]) == ([], [])


@pytest.mark.parametrize("steps", [20, 50, 100, 300, 1000])
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("shape", ["steady", "early", "late"])
def test_a_curve_that_falls_is_hardly_ever_called_flat(steps, noise, shape):
    """Even where no held-out loss vouches for it."""
    at = np.arange(steps) / steps
    fallen = {"steady": at, "early": 1 - np.exp(-at / 0.08), "late": at**3}[shape]
    rng = np.random.default_rng(0)
    alarms = sum(
        bool(watched(noisy(rng, 2.0 * (1 - LEARNS * fallen), noise))[1]) for _ in range(200)
    )
    assert alarms <= 1


@pytest.mark.parametrize(("steps", "noise"), [(50, 0.02), (200, 0.05), (1000, 0.1)])
def test_a_curve_that_does_not_fall_is_called_flat_mostly(steps, noise):
    rng = np.random.default_rng(0)
    found = sum(bool(watched(noisy(rng, [2.0] * steps, noise))[1]) for _ in range(200))
    assert found >= 180


def test_gradients_of_a_usual_spread_are_hardly_ever_called_exploding():
    """Log-normal around their median, as those of batches are: once in 100,000 steps or less."""
    rng = np.random.default_rng(0)
    losses = np.linspace(2, 1, 20_000)
    runs = [watched(losses, norms=rng.lognormal(0, 0.5, 20_000).tolist())[1] for _ in range(5)]
    assert sum(map(bool, runs)) <= 1


OVERFITTED = [(0, 2.0), (100, 1.5), (200, 1.4), (300, 1.45), (400, 1.6)]


def test_overfitting_names_the_best_step_once_on_the_way():
    said, verdict = watched(np.linspace(2, 0.5, 400), heldout=OVERFITTED)
    (now,) = said
    assert now.startswith(
        "the held-out loss was lowest at step 200 (1.4) and has risen to 1.6 by step 400, while "
        "the training loss fell from 1.4 to 0.6485: the rows are learned by heart. "
        "Set train.max_steps to 200"
    )
    assert verdict == said


@pytest.mark.parametrize(
    ("losses", "heldout"),
    [
        (np.linspace(2, 0.5, 400), [(0, 2.0), (200, 1.4), (300, 1.405), (400, 1.41)]),  # 1 %
        (np.linspace(2, 0.5, 400), [(0, 2.0), (200, 1.4), (400, 1.5)]),  # once
        (np.linspace(2, 0.5, 400), [*OVERFITTED[:-1], (350, 1.45), (400, 1.39)]),  # it came back
        (np.linspace(2, 0.5, 400), []),
    ],
)  # fmt: skip
def test_no_overfitting(losses, heldout):
    assert watched(losses, heldout=heldout)[1] == []


def test_a_loss_that_rises_is_told_apart():
    _, (sentence,) = watched(np.linspace(2, 3, 400), heldout=[(0, 2.0), (200, 2.5), (400, 3.0)])
    assert sentence == (
        "the training loss rises: 2.099 in the first 80 steps, 2.901 in the last 80 of 400. "
        "Lower train.learning_rate"
    )


def test_a_resumed_watch_ends_as_one_that_saw_all():
    rng = np.random.default_rng(3)
    norms = rng.lognormal(0, 1.5, 400).tolist()
    every = list(lines(noisy(rng, [1.0] * 400, 0.02), norms, OVERFITTED))
    whole, parts = Watch(400, 0.3), Watch(400, 0.3)
    whole.see(every)
    parts.see(every[:150])
    parts.see(every[150:])
    assert parts.verdict() == whole.verdict() != []
