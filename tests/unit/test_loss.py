"""The chunked loss and its gradients are those of all logits at once."""

import pytest
import torch
from tests.support import tiny
from transformers import AutoModelForCausalLM

from qatune.model import loss
from qatune.model.batches import padded
from qatune.model.scoring import IGNORED


@pytest.fixture
def model(tmp_path):
    return AutoModelForCausalLM.from_pretrained(tiny.tiny_llama(tmp_path), dtype=torch.float32)


def batch():
    ids = torch.randint(0, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :6] = IGNORED
    return ids, labels


def gradients(model):
    return {
        name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad
    }


@pytest.mark.parametrize("chunk", [7, 14, 1000])
@pytest.mark.parametrize("head_is_trained", [False, True])
def test_loss_and_gradients(model, chunk, head_is_trained, monkeypatch):
    model.get_output_embeddings().weight.requires_grad_(head_is_trained)
    ids, labels = batch()
    logits = model(input_ids=ids).logits[:, :-1]
    usual = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum"
    )
    (usual / 7).backward()
    wanted = gradients(model)
    model.zero_grad()

    monkeypatch.setattr(loss, "CHUNK_POSITIONS", chunk)
    loss.return_answer_nll(model)
    found = model(**padded(list(zip(ids, labels, strict=True)), 0))["nll"]
    torch.testing.assert_close(found, usual)
    (found / 7).backward()
    assert gradients(model).keys() == wanted.keys()
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-5, msg=name)


def test_no_more_than_a_chunk_of_logits_exists_at_once(model, monkeypatch):
    seen = []
    real = loss.logits
    monkeypatch.setattr(loss, "CHUNK_POSITIONS", 10)
    monkeypatch.setattr(
        loss, "logits", lambda lm, hidden: seen.append(len(hidden)) or real(lm, hidden)
    )
    loss.return_answer_nll(model)
    ids, labels = batch()
    model(**padded(list(zip(ids, labels, strict=True)), 0))["nll"].backward()
    assert seen == [10, 10, 10, 10, 2]
