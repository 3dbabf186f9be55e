import pytest
import torch
from tests.support import tiny

from qatune.config import Model
from qatune.model import scoring
from qatune.model.loading import load_model

ROWS = [
    ([5, 6, 7, 8, 9, 10, 11], 3),
    ([20, 21], 1),
    (list(range(30, 60)), 20),
    ([70, 71, 72], 0),
    ([80, 81], 2),
]


@pytest.fixture(scope="module", params=[tiny.tiny_gpt2, tiny.tiny_llama], ids=["gpt2", "llama"])
def loaded(request, tmp_path_factory):
    folder = request.param(tmp_path_factory.mktemp("model"))
    return load_model(folder, Model(source="tiny", dtype="float32"), print)


def score(loaded, rows, batch_size):
    return scoring.score(
        loaded.model, rows, batch_size=batch_size, pad_id=loaded.tokenizer.pad_token_id
    )


def plain(model, ids, start):
    """The definition, one row at a time over all logits."""
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(logs[place - 1, ids[place]].item() for place in range(max(start, 1), len(ids)))


def test_it_is_the_sum_over_the_answer(loaded):
    for row, found in zip(ROWS, score(loaded, ROWS, 2), strict=True):
        assert found.nll == pytest.approx(plain(loaded.model, *row), rel=1e-4, abs=1e-6)
        assert found.tokens == max(len(row[0]) - max(row[1], 1), 0)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_change_nothing(loaded, batch_size):
    one, many = score(loaded, ROWS, 1), score(loaded, ROWS, batch_size)
    assert [row.nll for row in many] == pytest.approx([row.nll for row in one], rel=1e-4)


def test_chunks_change_nothing(loaded, monkeypatch):
    whole = score(loaded, ROWS, 3)
    monkeypatch.setattr(scoring, "CHUNK_POSITIONS", 2)
    assert [row.nll for row in score(loaded, ROWS, 3)] == pytest.approx(
        [row.nll for row in whole], rel=1e-5
    )


def test_the_mean_weighs_tokens_not_rows():
    assert scoring.mean([scoring.Scored(1.0, 1), scoring.Scored(9.0, 4)]) == 2.0
    assert scoring.mean([]) is None


def test_the_mode_of_the_model_is_kept(loaded):
    loaded.model.train()
    score(loaded, ROWS, 2)
    assert loaded.model.training
    loaded.model.eval()
