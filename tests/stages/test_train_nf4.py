"""4-bit weights on a CPU: dequantized once, the same numbers."""

import json

import pytest
import torch
from tests.support import tiny, training

from qatune.config import Lora, Model
from qatune.model import devices
from qatune.model.loading import load_model
from qatune.stages import train
from qatune.store.memory import MemoryStore

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory):
    return getattr(tiny, f"tiny_{request.param}")(tmp_path_factory.mktemp(request.param))


def loaded(folder, notes):
    spec = Model(source=str(folder), quantization="nf4", dtype="float32")
    return load_model(folder, spec, notes.append, for_training=True).model


def test_the_weights_are_what_the_4_bits_stand_for(folder, monkeypatch):
    notes = []
    once = loaded(folder, notes)
    assert [note for note in notes if note.startswith("nf4 weights are dequantized once")]
    monkeypatch.setattr(devices, "available_memory_bytes", lambda: 0)
    packed = loaded(folder, notes)
    assert len(notes) == 1
    assert packed.get_memory_footprint() < once.get_memory_footprint()
    with torch.no_grad():
        assert torch.equal(once(input_ids=IDS).logits, packed(input_ids=IDS).logits)


def test_a_start_with_less_memory_goes_on_the_same_way(folder, monkeypatch):
    """Losses of both ways agree, so a run may go on where there is less room."""

    def losses():
        store = MemoryStore()
        fields = {"lora": Lora(r=8), "learning_rate": 1e-3}
        ours = training.recipe(folder, {"quantization": "nf4"}, **fields)
        eos = json.loads((folder / "config.json").read_text())["eos_token_id"]
        train.run(training.prepared(store, ours, eos=eos))
        lines = store.read(f"runs/{training.RUN}/train/metrics.jsonl").splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]

    once = losses()
    monkeypatch.setattr(devices, "available_memory_bytes", lambda: 0)
    assert losses() == pytest.approx(once, rel=1e-3)
