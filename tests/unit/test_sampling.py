import math

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from qatune.data.requests import Sampling
from qatune.model.sampling import RowSampler, gumbel, restrict


def choose(logits, row_id, sampling, position=0):
    """Token that a row of these logits takes, alone in its batch."""
    sampler = RowSampler([(row_id, sampling)], prompt_width=3)
    scores = sampler(torch.zeros(1, 3 + position, dtype=torch.long), logits.clone()[None])
    return int(scores.argmax())


def test_noise_is_a_function_of_seed_row_and_position():
    assert torch.equal(gumbel(1, "a", 0, 9), gumbel(1, "a", 0, 9))
    others = [gumbel(2, "a", 0, 9), gumbel(1, "b", 0, 9), gumbel(1, "a", 1, 9)]
    assert not any(torch.equal(gumbel(1, "a", 0, 9), other) for other in others)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    expected = (logits / temperature).softmax(0) * 2000
    sampling = Sampling(temperature=temperature)
    drawn = torch.bincount(
        torch.tensor([choose(logits, str(row), sampling) for row in range(2000)]), minlength=5
    )
    chi_square = float(((drawn - expected) ** 2 / expected).sum())
    assert chi_square < 18.47  # 4 degrees of freedom, p = 0.001


def test_draws_along_one_row_follow_the_softmax():
    logits = torch.tensor([1.0, 0.0, -1.0])
    expected = logits.softmax(0) * 2000
    drawn = torch.bincount(
        torch.tensor([choose(logits, "row", Sampling(1.0), position) for position in range(2000)])
    )
    assert float(((drawn - expected) ** 2 / expected).sum()) < 13.82  # 2 degrees, p = 0.001


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.7), (7, 0.5), (1, 1.0), (0, 0.01)])
def test_restricts_as_transformers_does(seed, top_k, top_p):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 2
    theirs = logits[None]
    if top_k:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    assert torch.equal(restrict(logits, top_k, top_p), theirs[0])


def test_each_row_keeps_its_own_settings():
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    rows = [("a", Sampling()), ("b", Sampling(1.5, seed=3)), ("c", Sampling(1.0, top_k=1))]
    rows.append(("d", Sampling(3.0, top_p=0.9, seed=4)))
    together = RowSampler(rows, 1)(torch.zeros(4, 1), logits.clone()).argmax(1).tolist()
    alone = [choose(line, *row) for line, row in zip(logits, rows, strict=True)]
    assert together == alone
    assert together[0] == int(logits[0].argmax())
    assert together[2] == int(logits[2].argmax())


def test_a_greedy_row_keeps_its_scores():
    logits = torch.randn(1, 8)
    assert torch.equal(
        RowSampler([("a", Sampling())], 1)(torch.zeros(1, 1), logits.clone()), logits
    )


def test_never_draws_outside_of_top_k():
    logits = torch.zeros(20)
    logits[4] = logits[11] = math.log(2)
    drawn = {choose(logits, str(row), Sampling(5.0, top_k=2)) for row in range(100)}
    assert drawn == {4, 11}
