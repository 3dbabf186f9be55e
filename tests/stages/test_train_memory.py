"""A step that does not fit into the memory of the GPU."""

import weakref

import pytest
import torch
from tests.support import tiny, training
from transformers import LlamaForCausalLM

from qatune.errors import BadRecipeError
from qatune.model.trainer import AdapterTrainer
from qatune.stages import train
from qatune.store.memory import MemoryStore


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
    return tiny.tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(name="small_gpu")
def _small_gpu(monkeypatch):
    """Let the last part of the second step fit only where activations are computed again."""
    compute, taken, held = AdapterTrainer.compute_loss, [], []

    def compute_loss(self, model, inputs, **given):
        kept = not self.model.is_activation_checkpointing
        taken.append((self.state.global_step, kept))
        loss = compute(self, model, inputs, **given)
        if kept and taken.count((1, True)) == 2:
            held.append(weakref.ref(loss))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        assert not any(each() is not None for each in held)
        return loss

    monkeypatch.setattr(AdapterTrainer, "compute_loss", compute_loss)
    return taken


def trained(folder, **changed):
    """Train with two parts a step; return the stage and what it left."""
    store = MemoryStore()
    stage = training.prepared(store, training.recipe(folder, packing=False, **changed))
    train.run(stage)
    keys = [key for key in store.keys("") if key.endswith(("adapter_model.safetensors", ".jsonl"))]
    return stage, {key: store.read(key) for key in keys if "checkpoints" not in key}


def test_activations_are_computed_again_once_a_step_does_not_fit(folder, request):
    _, wanted = trained(folder)
    taken = request.getfixturevalue("small_gpu")
    stage, found = trained(folder)
    assert found == wanted
    assert len(found) == 2
    assert taken[:6] == [(0, True), (0, True), (1, True), (1, True), (1, False), (1, False)]
    assert not any(kept for _, kept in taken[4:])
    (note,) = (note for note in stage.notes if "checkpointing" in note)
    assert note.startswith("train.gradient_checkpointing: not all steps fit into the memory")


def test_where_they_may_not_be_the_step_is_named(folder, small_gpu):
    wanted = (
        r"recipe\.train: step 2 does not fit .*; set gradient_checkpointing to true, or lower p"
    )
    with pytest.raises(BadRecipeError, match=wanted):
        trained(folder, gradient_checkpointing=False)
    assert len(small_gpu) == 4


def test_where_it_does_not_help_other_fields_are_named(folder, monkeypatch):
    def compute_loss(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(AdapterTrainer, "compute_loss", compute_loss)
    with pytest.raises(
        BadRecipeError, match=r"step 1 does not fit .*; lower per_device_train_batch"
    ):
        trained(folder)


def test_what_cannot_compute_them_again_names_other_fields(folder, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    test_where_it_does_not_help_other_fields_are_named(folder, monkeypatch)
