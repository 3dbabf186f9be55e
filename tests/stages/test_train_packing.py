"""Packing changes what a step costs, not what it is."""

import json

import pytest
from tests.support import tiny, training

from qatune.config import Lora
from qatune.model import checks, devices, flops, training_rows
from qatune.model.configs import load_config
from qatune.model.trainer import AdapterTrainer
from qatune.stages import train
from qatune.store.memory import MemoryStore

EOS = {"gpt2": 50256, "llama": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    folders = {"gpt2": tiny.tiny_gpt2(made / "gpt2"), "llama": tiny.tiny_llama(made / "llama")}
    # Its masks depend on how rows are laid out.
    settings = json.loads((folders["gpt2"] / "config.json").read_text())
    settings |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    (folders["gpt2"] / "config.json").write_text(json.dumps(settings))
    return folders


def trained(folder, family, **changed):
    """Train; return the journal's lines and the counters."""
    store = MemoryStore()
    ours = training.recipe(folder, lora=Lora(r=8), **changed)
    stage = training.prepared(store, ours, eos=EOS[family])
    train.run(stage)
    lines = store.read(f"runs/{training.RUN}/train/metrics.jsonl").splitlines()
    return [json.loads(line) for line in lines], stage


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_the_loss_curve_is_that_of_padded_rows(folders, family, strategy):
    fields = {"train_sampling_strategy": strategy, "learning_rate": 1e-3}
    packed, stage = trained(folders[family], family, **fields)
    padded, other = trained(folders[family], family, packing=False, **fields)
    assert len(packed) == len(padded)
    for found, wanted in zip(packed, padded, strict=True):
        assert found.get("tokens") == wanted.get("tokens")
        assert found == pytest.approx(wanted, rel=2e-4)
    assert stage.counters["padding_share"] == 0 < other.counters["padding_share"]
    assert stage.counters["supervised_tokens"] == other.counters["supervised_tokens"]
    assert stage.counters["tokens_per_second"] > 0


def test_on_a_cpu_a_pack_is_no_longer_than_a_row_may_be(folders, monkeypatch):
    compute, sizes = AdapterTrainer.compute_loss, []

    def compute_loss(self, model, inputs, **given):
        sizes.append(inputs["input_ids"].numel())
        return compute(self, model, inputs, **given)

    monkeypatch.setattr(AdapterTrainer, "compute_loss", compute_loss)
    trained(folders["llama"], "llama", max_length=20, max_steps=2)
    assert len(sizes) > 2
    assert max(sizes) <= 20


def test_the_share_of_the_peak_is_that_of_what_was_computed(folders, monkeypatch, tmp_path):
    peak, name = 10**9, devices.device_name()
    monkeypatch.setattr(flops, "DENSE_16_BIT", {name: peak})
    _, stage = trained(folders["llama"], "llama", num_train_epochs=1)
    rows = training_rows.read(stage, load_config(folders["llama"]), tmp_path)
    lengths = [min(int(length), rows.limit) for length in rows.lengths]
    work = flops.Work(
        sum(lengths), stage.counters["supervised_tokens"], sum(each**2 for each in lengths)
    )
    model = checks.skeleton(load_config(folders["llama"]))
    seconds = sum(lengths) / stage.counters["tokens_per_second"]
    wanted = flops.training_flops(model, work) / seconds / peak
    assert stage.counters["peak_share"] == pytest.approx(wanted, rel=0.01)


def test_with_dropout_the_final_loss_is_the_same_within_noise(folders):
    """Masks fall otherwise in a pack: the curves are two draws of the same."""

    def finals(**changed):
        lora = Lora(r=8, lora_dropout=0.2)
        found = []
        for seed in range(4):
            store = MemoryStore()
            ours = training.recipe(
                folders["llama"],
                lora=lora,
                seed=seed,
                num_train_epochs=6,
                save_steps=100,
                **changed,
            )
            stage = training.prepared(store, ours)
            train.run(stage)
            found.append(stage.counters["heldout_loss_after"])
        return found

    packed, padded = finals(), finals(packing=False)
    spread = max(max(each) - min(each) for each in (packed, padded))
    assert abs(sum(packed) - sum(padded)) / 4 <= spread
    assert packed != padded


def test_an_architecture_that_cannot_pack_is_padded_and_says_so(folders, monkeypatch):
    monkeypatch.setattr(train, "attend_by_rows", lambda _: False)
    _, stage = trained(folders["llama"], "llama")
    assert stage.counters["padding_share"] > 0
    assert [note for note in stage.notes if note.startswith("train.packing")]
