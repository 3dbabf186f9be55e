"""The fused forward and backward compute what peft's do."""

import pytest
import torch
from tests.support import tiny
from torch import nn
from transformers import AutoModelForCausalLM

from qatune import config
from qatune.model import adapters, dropout, lora
from qatune.model.dropout import Dropout, draw, draw_faster


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory):
    return getattr(tiny, f"tiny_{request.param}")(tmp_path_factory.mktemp(request.param))


def adapted(folder, share=0.0):
    """A model whose adapter is no longer the identity."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for module in base.modules():
        if type(module) is nn.Dropout:
            module.p = 0.0
    model = adapters.create(base, config.Lora(r=4, lora_alpha=12, lora_dropout=share), seed=1)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    return model.train()


def gradients(model, ids):
    model.zero_grad()
    loss = model(input_ids=ids).logits.square().mean()
    loss.backward()
    return loss.detach(), {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])


def distance(found, wanted):
    """Return the largest relative distance of a parameter's gradients."""
    assert found.keys() == wanted.keys()
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


def test_loss_and_gradients_are_those_of_peft(folder):
    model = adapted(folder)
    loss, wanted = gradients(model, IDS)
    lora.fuse(model)
    fused_loss, found = gradients(model, IDS)
    torch.testing.assert_close(fused_loss, loss)
    assert distance(found, wanted) < 1e-4


def test_under_autocast_they_are_as_near_to_the_exact_ones_as_those_of_peft(folder):
    model = adapted(folder)
    _, exact = gradients(model, IDS)
    with torch.autocast("cpu", torch.bfloat16):
        _, pefts = gradients(model, IDS)
        lora.fuse(model)
        _, found = gradients(model, IDS)
    assert 1e-4 < distance(found, exact) < 1.5 * distance(pefts, exact)


def test_gradients_with_dropout_are_those_of_the_same_masks(folder, monkeypatch):
    """Both take their masks from one list, in the order of the layers."""
    masks = []

    def recorded(shape, share):
        masks.append(draw(shape, share))
        return masks[-1]

    class Replayed(nn.Dropout):
        def forward(self, hidden):
            kept, factor = masks.pop(0)
            return hidden * kept.view(hidden.shape) * factor

    monkeypatch.setattr(lora, "draw", recorded)
    model = adapted(folder, share=0.5)
    lora.fuse(model)
    _, found = gradients(model, IDS)
    other = adapted(folder, share=0.5)
    for module in list(other.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout) and child.p:
                module.register_module(name, Replayed(child.p))
    _, wanted = gradients(other, IDS)
    assert not masks
    for name, grad in found.items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


def test_without_training_nothing_is_dropped(folder):
    model = adapted(folder, share=0.9)
    model.eval()
    with torch.no_grad():
        wanted = model(input_ids=IDS).logits
        lora.fuse(model)
        torch.testing.assert_close(model(input_ids=IDS).logits, wanted)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_masks_drop_the_share_that_is_asked_for(share):
    torch.manual_seed(0)
    kept, factor = draw((1000, 1001), share)
    assert float(kept.float().mean()) == pytest.approx(1 - share, abs=0.002)
    assert factor == pytest.approx(1 / (1 - share), rel=1e-4)
    # Neither rows nor columns hang together.
    for axis in (0, 1):
        assert float(kept.float().mean(axis).std()) < 0.03


def test_masks_depend_on_torchs_generator_alone():
    torch.manual_seed(7)
    first, second = draw((50, 3), 0.5)[0], draw((50, 3), 0.5)[0]
    torch.manual_seed(7)
    assert torch.equal(draw((50, 3), 0.5)[0], first)
    assert not torch.equal(first, second)


def test_everything_may_be_dropped():
    kept, factor = draw((2, 3), 1.0)
    assert not kept.any()
    assert factor == 0


def test_models_own_dropout_is_drawn_the_same_way():
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"inner": nn.Dropout(0.5)})["inner"])
    draw_faster(model)
    assert type(model[1]) is Dropout
    ones = torch.ones(100, 100, requires_grad=True)
    found = model[1](ones)
    assert set(found.unique().tolist()) == {0.0, 2.0}
    found.sum().backward()
    assert torch.equal(ones.grad, found)
    assert torch.equal(model.eval()[1](ones), ones)
    assert dropout.Dropout(0.0)(ones) is ones
