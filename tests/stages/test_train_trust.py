"""What a training looks at before, during and after: train/checks.json, and where it stops."""

import json
import shutil
import signal

import pytest
import torch
from tests.support import tiny, training
from transformers import AutoTokenizer

from qatune.config import Lora
from qatune.data import learning
from qatune.errors import BadDataError, BadRecipeError, QatuneError
from qatune.model import adapters, training_rows
from qatune.model.batches import Collator
from qatune.model.configs import load_config
from qatune.model.recorder import Recorder
from qatune.stages import train
from qatune.store import manifests
from qatune.store.memory import MemoryStore

HEAD = f"runs/{training.RUN}/train/"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return tiny.tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


def run(ours, store=None, **prepared):
    store = store or MemoryStore()
    train.run(training.prepared(store, ours, **prepared))
    return json.loads(store.read(HEAD + "checks.json"))


def logged(capfd, level):
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    return [line for line in found if line["level"] == level]


QUESTION, ANSWER = [40, 41, 42, 43], [101, 102, 103]


@pytest.mark.parametrize("packing", [True, False])
def test_a_sample_shows_what_is_learned(llama, capfd, packing):
    ours = training.recipe(llama, max_steps=2, packing=packing)
    rows = [([*QUESTION, *ANSWER, 1], 4), ([*QUESTION, 50, *ANSWER, 1], 5)]
    checks = run(ours, rows=rows)
    tokenizer = AutoTokenizer.from_pretrained(llama)
    assert checks == {
        "sample": {
            "id": "1",
            "prompt": tokenizer.decode(QUESTION),
            "learned": tokenizer.decode(ANSWER) + "<|end|>",
            "tokens": 4,
            "ends_with_eos": True,
        },
        "rows_without_eos": 0,
        "supervised_share": round(8 / 17, 6),
        "warnings": [],
    }
    (line,) = (line for line in logged(capfd, "info") if line["message"].startswith("what is le"))
    assert line["learned"] == checks["sample"]["learned"].replace("\n", "\\n")
    assert (line["id"], line["tokens"], line["ends_with_eos"]) == ("1", 4, True)


def test_a_question_that_is_learned_too_stands_in_the_learned_part(llama):
    ours = training.recipe(llama, max_steps=1, completion_only_loss=False)
    checks = run(ours, rows=[([*QUESTION, *ANSWER, 1], 4)])
    assert checks["sample"]["tokens"] == 7
    assert checks["sample"]["prompt"] == AutoTokenizer.from_pretrained(llama).decode(QUESTION[:1])


def test_a_pad_token_that_is_eos_masks_no_end(gpt2):
    checks = run(training.recipe(gpt2, max_steps=1), eos=50256)
    assert checks["sample"]["learned"].endswith("<|endoftext|>")
    assert checks["rows_without_eos"] == 0


def test_rows_that_are_cut_are_counted_and_warned_of(llama, capfd):
    ours = training.recipe(llama, max_length=8, max_steps=1)
    checks = run(ours, rows=[([*QUESTION, *ANSWER, 1], 4), ([*QUESTION, *ANSWER, 9, 1], 4)])
    assert checks["rows_without_eos"] == 1
    sentence = "1 of 2 training rows are learned without their end mark: train.max_length cuts"
    assert [one for one in checks["warnings"] if one.startswith(sentence)]
    assert any(line["message"].startswith(sentence) for line in logged(capfd, "warning"))


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        ([([*QUESTION, *ANSWER, 1], 4)] * 3, {"max_length": 7}, BadRecipeError,
         r"recipe\.train\.max_length: all 3 .* cut to 7 tokens .* \(the shortest row has 8 tokens"),
        ([(QUESTION + ANSWER, 4)] * 3, {}, BadDataError,
         r"none of 3 training rows ends with the tokenizer's end mark '<\|end\|>'"),
        ([([40, 1], 1)], {"max_length": 1, "completion_only_loss": False}, BadRecipeError,
         "of 1 token nothing can be learned"),
        ([([1], 0)], {"completion_only_loss": False}, BadDataError,
         "no training row has a token to learn"),
    ],
)  # fmt: skip
def test_a_training_that_cannot_teach_is_refused(llama, rows, settings, error, message):
    store = MemoryStore()
    with pytest.raises(error, match=message):
        run(training.recipe(llama, **settings), store, rows=rows)
    assert not list(store.keys(HEAD + "checkpoints"))


def test_a_collator_that_masks_the_end_is_found(llama, monkeypatch):
    """As those do that take a pad token that is EOS for padding."""
    labelled = Collator._labelled

    def masked(self, row):
        ids, labels = labelled(self, row)
        return ids, labels.masked_fill(ids == 1, -100)

    monkeypatch.setattr(Collator, "_labelled", masked)
    wanted = "training row 0: 3 of its 4 tokens to learn are supervised, without the end mark: a b"
    with pytest.raises(QatuneError, match=wanted):
        run(training.recipe(llama))


def test_of_all_names_of_rows_the_first_is_kept(llama, tmp_path):
    stage = training.prepared(MemoryStore(), training.recipe(llama))
    rows = training_rows.read(stage, load_config(llama), tmp_path)
    assert rows.train.column_names == ["input_ids", "answer_start"]
    assert rows.first_id == "1"


def test_questions_on_both_sides_are_told_of_again(llama):
    store, ours = MemoryStore(), training.recipe(llama, max_steps=2)
    stage = training.prepared(store, ours)
    stage.parent("preprocess").counters.update(questions_on_both_sides=2, rows_test=6)
    train.run(stage)
    (sentence,) = json.loads(store.read(HEAD + "checks.json"))["warnings"]
    assert sentence == (
        "2 of 6 held-out questions stand in the training rows, too: the held-out loss flatters. "
        "data.split.method: group keeps them apart"
    )


@pytest.mark.parametrize("save_steps", [1, 20])
def test_a_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    llama, tmp_path, save_steps
):
    ours = training.recipe(
        llama, learning_rate=1e38, warmup_ratio=1.0, save_steps=save_steps, num_train_epochs=100,
        lora=Lora(r=8),
    )  # fmt: skip
    store = MemoryStore()
    with pytest.raises(BadRecipeError, match="is not a number") as caught:
        run(ours, store)
    assert "this adapter cannot be trusted, and training stops" in str(caught.value)
    assert "Lower train.learning_rate" in str(caught.value)
    for key in store.keys(HEAD):
        content = store.read(key)
        if key.endswith("metrics.jsonl"):
            assert b"NaN" not in content
        if key.endswith(adapters.WEIGHTS):
            (tmp_path / "weights").write_bytes(content)
            from safetensors.torch import load_file

            assert all(
                tensor.isfinite().all() for tensor in load_file(tmp_path / "weights").values()
            )
    assert bool(list(store.keys(HEAD + "checkpoints"))) == (save_steps == 1)
    assert manifests.load(store, training.RUN, "train") is None


@pytest.mark.parametrize(
    ("every", "step", "what"),
    [
        ({"logging_steps": 1}, 3, "adapter"),
        ({"save_steps": 3}, 3, "adapter"),
        ({"eval_steps": 3}, 3, "held-out loss"),
        ({}, 4, "loss"),
    ],
)
def test_weights_that_are_lost_in_a_step_are_found_before_they_are_used(
    llama, monkeypatch, every, step, what
):
    """A gradient that is no number spoils the weights after a loss that was one."""
    ends = Recorder.on_step_end

    def spoiled(self, args, state, control, *, model, **rest):
        if state.global_step == 3:
            with torch.no_grad():
                next(each for each in model.parameters() if each.requires_grad).fill_(torch.nan)
        ends(self, args, state, control, model=model, **rest)

    monkeypatch.setattr(Recorder, "on_step_end", spoiled)
    rarely = {"logging_steps": 50, "save_steps": 50, "eval_steps": 50}
    store, ours = MemoryStore(), training.recipe(llama, **rarely | every)
    with pytest.raises(BadRecipeError, match=f"step {step}: the {what} is not a number"):
        run(ours, store)
    assert not list(store.keys(HEAD + "checkpoints"))


def test_a_stop_saves_no_lost_weights(llama, monkeypatch):
    ends = Recorder.on_step_end

    def spoiled(self, args, state, control, *, model, **rest):
        with torch.no_grad():
            next(each for each in model.parameters() if each.requires_grad).fill_(torch.nan)
        signal.raise_signal(signal.SIGTERM)
        ends(self, args, state, control, model=model, **rest)

    monkeypatch.setattr(Recorder, "on_step_end", spoiled)
    store = MemoryStore()
    with pytest.raises(BadRecipeError, match="step 1: the adapter is not a number"):
        run(training.recipe(llama, logging_steps=50, save_steps=50, eval_steps=50), store)
    assert not list(store.keys(HEAD + "checkpoints"))


def test_an_adapter_that_changes_nothing_is_told_of(llama, capfd):
    ours = training.recipe(llama, learning_rate=1e-45, max_steps=2)
    assert run(ours)["warnings"] == [learning.UNCHANGED]
    assert logged(capfd, "warning")[-1]["message"] == learning.UNCHANGED


def test_a_flat_training_is_told_of_while_it_runs_and_in_the_checks(llama, capfd, monkeypatch):
    monkeypatch.setattr(learning, "_LONG", 60)
    ours = training.recipe(llama, learning_rate=1e-12, max_steps=80, eval_steps=80, save_steps=80)
    (sentence,) = run(ours)["warnings"]
    assert sentence.startswith("the training loss did not fall: ")
    said = [line["message"] for line in logged(capfd, "warning")]
    on_the_way, at_the_end = (one for one in said if "training loss" in one)
    assert on_the_way.startswith("the training loss has not fallen so far: ")
    assert at_the_end == sentence


def test_a_resumed_run_writes_the_checks_of_one_left_alone(llama, monkeypatch):
    """Its gradients explode before the stop; both have the sentence, in the same words."""
    ours = training.recipe(llama, max_steps=40, save_steps=5, learning_rate=1e-4)
    losses = Recorder.on_step_end
    asked = []

    def exploding(self, args, state, control, **rest):
        if state.global_step == 25:
            self.trainer.step_norm = torch.tensor(1e6)
        if state.global_step == 30 and not asked:
            asked.append(1)
            signal.raise_signal(signal.SIGTERM)
        losses(self, args, state, control, **rest)

    monkeypatch.setattr(Recorder, "on_step_end", exploding)
    resumed, alone = MemoryStore(), MemoryStore()
    with pytest.raises(QatuneError, match="stopped at step 30"):
        run(ours, resumed)
    (sentence,) = run(ours, resumed)["warnings"]
    assert sentence.startswith("step 25: the gradient exploded: its norm is 1e+06")
    run(ours, alone)
    assert resumed.read(HEAD + "checks.json") == alone.read(HEAD + "checks.json")


def test_the_rows_of_a_tokenizer_with_another_end_are_refused(llama, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(llama, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|begin|>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadDataError, match="ends with the tokenizer's end mark"):
        run(training.recipe(folder))
