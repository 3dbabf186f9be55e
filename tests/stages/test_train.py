import json
import os
import shutil
import signal
import time

import pytest
from tests.support import tiny, training
from transformers import AutoTokenizer

from qatune.config import Lora
from qatune.errors import (
    BadDataError,
    BadRecipeError,
    InterruptedRunError,
    MissingInputError,
    NotAllowedError,
    QatuneError,
    UnavailableError,
)
from qatune.model import uploads
from qatune.model.recorder import Recorder
from qatune.stages import train
from qatune.store import manifests
from qatune.store.memory import MemoryStore

EOS = {"gpt2": 50256, "llama": 1}
NF4 = {"quantization": "nf4"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    return {"gpt2": tiny.tiny_gpt2(made / "gpt2"), "llama": tiny.tiny_llama(made / "llama")}


def run(store, ours, **prepared):
    stage = training.prepared(store, ours, **prepared)
    train.run(stage)
    return stage


def outputs(store):
    manifest, _ = manifests.load(store, training.RUN, "train")
    return {ref.key: store.read(ref.key) for ref in manifest.outputs}


def metrics(store):
    text = store.read(f"runs/{training.RUN}/train/metrics.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_quantized_training_learns_and_leaves_a_usable_adapter(folders, family, quantization):
    store = MemoryStore()
    ours = training.recipe(folders[family], {"quantization": quantization})
    stage = run(store, ours, eos=EOS[family])
    counters = stage.counters
    # A frozen random head of this width can hardly gain more: its logits stay below 1.3.
    assert counters["heldout_loss_after"] < counters["heldout_loss_before"] - 0.3
    assert counters["steps"] == 12
    lines = metrics(store)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "heldout_loss" in line] == [0, 5, 10, 12]
    names = {key.split("/train/")[1] for key in outputs(store)}
    assert {
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter/qatune.json",
        "adapter/README.md",
        "adapter/tokenizer.json",
        "metrics.jsonl",
        "tensorboard/events.out.tfevents.0.qatune",
    } <= names


class Killed(BaseException):
    """Not an Exception: nothing in the product may catch it."""


class DyingStore(MemoryStore):
    """Dies at the n-th object that it is asked to create."""

    dies_at = None

    def create(self, key, source):
        if self.dies_at is not None and "/train/" in key:
            self.dies_at -= 1
            if self.dies_at < 0:
                raise Killed
        return super().create(key, source)


@pytest.mark.parametrize(
    ("model", "strategy"),
    [({}, "random"), ({}, "group_by_length"), (NF4, "group_by_length")],
    ids=["fp32-random", "fp32-grouped", "nf4-grouped"],
)
def test_a_killed_run_ends_as_one_left_alone(folders, model, strategy):
    ours = training.recipe(folders["llama"], model, train_sampling_strategy=strategy)
    alone = MemoryStore()
    run(alone, ours)
    killed = DyingStore()
    for dies_at in (3, 14, 17, 15):
        killed.dies_at = dies_at
        with pytest.raises(Killed):
            run(killed, ours)
    killed.dies_at = None
    stage = run(killed, ours)
    assert stage.counters["resumed_from_step"] > 0
    assert outputs(killed) == outputs(alone)


def test_a_signal_saves_and_the_next_start_goes_on(folders, monkeypatch):
    ours = training.recipe(folders["llama"])
    alone, store = MemoryStore(), MemoryStore()
    run(alone, ours)
    ends = Recorder.on_step_end

    def interrupted(self, args, state, control, **rest):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        ends(self, args, state, control, **rest)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_step_end", interrupted)
        with pytest.raises(InterruptedRunError, match="stopped at step 5 of 12, saved"):
            run(store, ours)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not list(store.keys(f"runs/{training.RUN}/train/adapter"))
    beat = {"done": 9, "rate_per_second": 2.0}  # as if it had been killed four steps later
    store.replace(f"runs/{training.RUN}/train/progress.json", json.dumps(beat).encode())
    stage = run(store, ours)
    assert stage.counters["resumed_from_step"] == 5
    assert stage.seconds["lost"] == 2.0
    assert outputs(store) == outputs(alone)


def test_stopped_without_progress_is_no_interruption():
    with pytest.raises(QatuneError) as caught:
        train._stop(4, 12, moved=False)
    assert caught.value.exit_code == 70


def test_a_damaged_checkpoint_is_passed_over(folders, monkeypatch):
    ours = training.recipe(folders["llama"], max_steps=6)
    store = DyingStore()
    store.dies_at = 21  # in the outputs, after the checkpoint of the last step
    with pytest.raises(Killed):
        run(store, ours)
    head = f"runs/{training.RUN}/train/checkpoints/step-00000006/"
    key = next(key for key in store.keys(head) if key.endswith("optimizer.pt"))
    store.replace(key, b"\0" + store.read(key)[1:])
    store.dies_at = None
    assert run(store, ours).counters["resumed_from_step"] == 4


class AwayStore(MemoryStore):
    """Does not answer for the first times that a checkpoint is brought to it."""

    away = 0

    def create(self, key, source):
        if self.away and "/checkpoints/" in key:
            self.away -= 1
            raise UnavailableError("away")
        return super().create(key, source)


def test_training_goes_on_while_the_store_is_away(folders, monkeypatch, capfd):
    monkeypatch.setattr(uploads, "_PAUSE_SECONDS", 0.05)
    ours = training.recipe(folders["llama"], max_steps=6)
    alone, store = MemoryStore(), AwayStore()
    run(alone, ours)
    store.away = 20
    run(store, ours)
    assert store.away == 0
    assert outputs(store) == outputs(alone)
    assert capfd.readouterr().err.count("checkpoint not saved: trying again") == 1


class KeepingStore(MemoryStore):
    """Deletes nothing."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def delete(self, key):
        raise self.error


@pytest.mark.parametrize("error", [UnavailableError("away"), NotAllowedError("no right")])
def test_checkpoints_that_cannot_be_deleted_stop_nothing(folders, capfd, error):
    ours = training.recipe(folders["llama"], max_steps=6, save_total_limit=1)
    alone, store = MemoryStore(), KeepingStore(error)
    run(alone, ours)
    run(store, ours)
    assert outputs(store) == outputs(alone)
    assert 1 <= capfd.readouterr().err.count("old checkpoints not deleted") <= 3


@pytest.mark.parametrize(("step", "last"), [(0, 12), (3, 12), (6, 12), (12, 12)])
def test_a_signal_breaks_a_measurement_off_and_the_next_start_makes_it(
    folders, monkeypatch, step, last
):
    ours = training.recipe(folders["llama"], max_steps=last, eval_steps=3)
    alone, store = MemoryStore(), MemoryStore()
    run(alone, ours)
    measure, asked = Recorder.measure, []

    def interrupted(self, model, at):
        if at == step and not asked:
            asked.append(at)
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(self, model, at)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "measure", interrupted)
        with pytest.raises(QatuneError, match=f"stopped at step {step} of {last}") as caught:
            run(store, ours)
    assert caught.value.exit_code == (75 if step else 70)
    assert b'"heldout_loss"' not in b"".join(
        line
        for key in store.keys("")
        if key.endswith("metrics.jsonl") and f"/step-{step:08d}/" in key
        for line in store.read(key).splitlines()
        if b'"step": %d,' % step in line
    )
    again = run(store, ours)
    assert again.counters["resumed_from_step"] == step
    assert outputs(store) == outputs(alone)


class SlowStore(MemoryStore):
    def create(self, key, source):
        if "/checkpoints/" in key:
            time.sleep(0.2)
        return super().create(key, source)


def test_no_step_waits_for_the_store(folders):
    """A checkpoint takes this store longer than the steps up to the next take."""
    store = SlowStore()
    stage = run(store, training.recipe(folders["llama"], max_steps=8))
    head = f"runs/{training.RUN}/train/checkpoints/"
    kept = {key.removeprefix(head).split("/")[0] for key in store.keys(head)}
    assert "step-00000008" in kept
    assert len(kept) < 4
    assert 0 < stage.seconds["saving"] < 1


def test_old_checkpoints_go(folders):
    store = MemoryStore()
    run(store, training.recipe(folders["llama"], save_total_limit=2))
    head = f"runs/{training.RUN}/train/checkpoints/"
    kept = {key.removeprefix(head).split("/")[0] for key in store.keys(head)}
    assert kept == {"step-00000010", "step-00000012"}


def test_max_length_above_the_positions_is_capped_and_noted(folders):
    stage = run(MemoryStore(), training.recipe(folders["llama"], max_length=4096, max_steps=1))
    assert "train.max_length 4096 is capped to the model's 256" in stage.notes


def test_paged_optimizers_without_a_gpu_are_replaced_and_noted(folders):
    ours = training.recipe(folders["llama"], optim="paged_adamw_32bit", max_steps=1)
    stage = run(MemoryStore(), ours)
    assert any("adamw_torch_fused is used instead" in note for note in stage.notes)


def test_rows_above_max_length_are_cut_counted_and_noted(folders):
    ours = training.recipe(folders["llama"], max_length=8, max_steps=1, completion_only_loss=False)
    stage = run(MemoryStore(), ours)
    assert stage.counters["truncated_rows"] == 20
    assert stage.counters["tokens"] <= 8 * 23


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        ([([5] * 300, 4)], {}, BadDataError, "1 rows are longer than the model's 256 positions"),
        ([([5] * 20, 10)], {"max_length": 9}, BadDataError, "1 rows have no token to learn"),
        ([([5, 9999], 1)], {}, BadDataError, "token id 9999 lies outside"),
        ([], {}, BadDataError, "no row to train on"),
        (None, {"lora": Lora(target_modules=("c_attn",))}, BadRecipeError,
         "no layer 'c_attn' to adapt; it has down_proj, gate_proj, k_proj"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_weights_are_read(
    folders, monkeypatch, *, rows, settings, error, message
):
    monkeypatch.setattr(train, "load_model", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(error, match=message):
        run(MemoryStore(), training.recipe(folders["llama"], **settings), rows=rows)


def test_a_folder_without_weights(folders, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["llama"] / name).read_bytes())
    with pytest.raises(MissingInputError, match="no weights"):
        run(MemoryStore(), training.recipe(tmp_path))


def test_weights_of_another_shape_than_the_config_says(folders, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(folders["llama"], folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"intermediate_size": 48}))
    with pytest.raises(MissingInputError, match="weights are of two models: their shapes differ"):
        run(MemoryStore(), training.recipe(folder))


def test_gradient_accumulation_changes_nothing(folders):
    losses = []
    for batch, accumulation in ((4, 1), (2, 2)):
        store = MemoryStore()
        ours = training.recipe(
            folders["llama"],
            lora=Lora(r=8),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=4,
        )
        run(store, ours)
        losses.append([line["loss"] for line in metrics(store) if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_tokenizer_that_changed_after_preprocess_is_refused(folders, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(folders["llama"], folder)
    store, ours = MemoryStore(), training.recipe(folder)
    stage = training.prepared(store, ours)
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(MissingInputError, match=r"tokenizer\.json is not the one that the rows"):
        train.run(stage)


def test_padding_outside_the_vocabulary_is_said_before_weights_are_read(folders, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(folders["llama"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(MissingInputError, match=r"pad_token '\[NEW\]' is token \d+, outside"):
        run(MemoryStore(), training.recipe(folder))


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_the_card_says_how_to_load_the_base_as_it_was_trained_on(folders, quantization, tmp_path):
    store = MemoryStore()
    run(store, training.recipe(folders["llama"], {"quantization": quantization}, max_steps=1))
    for key, content in outputs(store).items():
        if "/adapter/" in key:
            (tmp_path / key.rsplit("/", 1)[-1]).write_bytes(content)
    code = (tmp_path / "README.md").read_text().split("```python")[1].split("```")[0]
    names = {}
    exec(code.replace("path/to/this/folder", str(tmp_path)), names)
    layer = names["model"].base_model.model.model.layers[0].self_attn.q_proj
    kinds = {"none": "Linear", "int8": "Linear8bitLt", "nf4": "Linear4bit"}
    assert type(layer.base_layer).__name__ == kinds[quantization]
    if quantization == "none":
        assert str(layer.base_layer.weight.dtype) == "torch.float32"


def test_what_the_weights_were_held_in_is_recorded(folders):
    store = MemoryStore()
    run(store, training.recipe(folders["llama"], {"dtype": "bfloat16"}, max_steps=1))
    (settings,) = (content for key, content in outputs(store).items() if "qatune.json" in key)
    assert json.loads(settings)["base"]["dtype"] == "float32"  # on a CPU, under autocast
