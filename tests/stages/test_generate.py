"""Held-out rows answered by base and adapter: every row counts once, whatever fails or stops."""

import json
import os
import shutil
import signal
from dataclasses import asdict

import pytest
import torch
from tests.support import answering, tiny
from tests.support.answering import PAIRS, KilledError, lines, outputs, run

from qatune.data.records import Answer, AnsweredRow
from qatune.data.shards import Shard
from qatune.errors import InterruptedRunError, MissingInputError, QatuneError
from qatune.stages import generate
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore

MAKERS = {"gpt2": tiny.tiny_gpt2, "llama": tiny.tiny_llama}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    return answering.random_adapter(folder, tmp_path_factory.mktemp("adapter"))


def test_every_held_out_row_is_answered_by_base_and_adapter(folder, adapter):
    store = MemoryStore()
    stage = run(store, folder, adapter)
    rows = lines(store, "parts/")
    assert [(row["question"], row["expected"]) for row in rows] == PAIRS
    assert [row["id"] for row in rows] == [str(number) for number in range(1, 8)]
    assert list(rows[0]) == [
        "id", "question", "expected", "expected_tokens", "prompt_tokens", "base", "adapter",
    ]  # fmt: skip
    assert all(row["base"]["text"] != row["adapter"]["text"] for row in rows)
    assert all(0 < row[one]["tokens"] <= 8 for row in rows for one in ("base", "adapter"))
    assert sorted(outputs(store)) == [f"parts/part-00000-0000{n}.jsonl" for n in range(3)]
    manifest, _ = manifests.load(store, answering.RUN, "generate")
    assert {ref.key.split("/", 3)[-1] for ref in manifest.outputs} == set(outputs(store))
    counters = manifest.counters
    assert (counters["rows"], counters["answers"], counters["errors"]) == (7, 7, 0)
    assert counters["base_tokens"] == sum(row["base"]["tokens"] for row in rows)
    assert counters["adapter_tokens"] == sum(row["adapter"]["tokens"] for row in rows)
    assert counters["prompts_per_second"] > 0
    made = counters["base_tokens"] + counters["adapter_tokens"]
    assert counters["tokens_per_second"] == pytest.approx(made / stage.seconds["working"], rel=0.01)
    assert any(ref.key.endswith("model.safetensors") for ref in manifest.inputs)
    assert any("train/adapter/" in ref.key for ref in manifest.inputs)
    assert any(ref.key.endswith("test-00000.parquet") for ref in manifest.inputs)
    assert stage.seconds["loading"] > 0


def test_likelihood_is_that_of_the_expected_answer_with_its_end(llama, llama_adapter):
    store = MemoryStore()
    run(store, llama, llama_adapter)
    row = lines(store, "parts/")[1]
    loaded = answering.load(llama)
    ids = loaded.tokenizer("### Question: def add\n### Answer:")["input_ids"]
    answer = loaded.tokenizer(" " + PAIRS[1][1], add_special_tokens=False)["input_ids"]
    whole = torch.tensor([[*ids, *answer, loaded.tokenizer.eos_token_id]])
    with torch.no_grad():
        logs = loaded.model(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    expected = -logs.gather(1, whole[0, len(ids) :, None]).mean()
    assert row["prompt_tokens"] == len(ids)
    assert row["expected_tokens"] == len(answer) + 1
    assert row["base"]["nll"] == pytest.approx(float(expected), rel=1e-5)
    assert row["adapter"]["nll"] != row["base"]["nll"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_do_not_depend_on_batch_or_chunk(folder, adapter, temperature):
    def answers(batch_size, chunk_rows):
        store = MemoryStore()
        sizes = {"batch_size": batch_size, "chunk_rows": chunk_rows}
        run(store, folder, adapter, temperature=temperature, seed=5, **sizes)
        rows = lines(store, "parts/")
        for row in rows:
            for one in ("base", "adapter"):
                row[one]["nll"] = pytest.approx(row[one]["nll"], rel=1e-4)
        return rows

    assert answers(1, 1) == answers(4, 7) == answers(16, 2)


def test_the_seed_changes_sampled_answers(llama):
    texts = []
    for seed in (1, 2):
        store = MemoryStore()
        run(store, llama, None, adapter="none", temperature=1.0, seed=seed)
        texts.append([row["base"]["text"] for row in lines(store, "parts/")])
    assert texts[0] != texts[1]


def test_without_training_the_base_answers_alone(llama):
    store = MemoryStore()
    stage = run(store, llama, None, adapter="none")
    assert set(stage.upstream) == {"preprocess"}
    assert [row["adapter"] for row in lines(store, "parts/")] == [None] * 7


def test_an_adapter_may_come_from_a_folder(llama, llama_adapter):
    ours, other = MemoryStore(), MemoryStore()
    run(ours, llama, llama_adapter)
    run(other, llama, None, adapter=str(llama_adapter))
    assert outputs(ours) == outputs(other)


def test_of_two_workers_at_one_chunk_the_slower_goes_on_with_the_other_s_answers(
    llama, monkeypatch, capfd
):
    """Their answers differ, as in bfloat16: by then a split network is whole again."""
    theirs, ours = MemoryStore(), MemoryStore()
    run(theirs, llama, None, adapter="none", max_new_tokens=8)
    stage = answering.prepared(ours, llama, None, PAIRS, adapter="none")
    settle = stage.settle
    part = Shard().part(1)
    changed = outputs(theirs)[part].replace(b'"stop"', b'"length"').replace(b"five", b"FIVE")

    def late(name, data):
        if name == part:
            assert ours.create(stage.key(name), changed)
        return settle(name, data)

    monkeypatch.setattr(stage, "settle", late)
    generate.run(stage)
    assert outputs(ours) == outputs(theirs) | {part: changed}
    assert outputs(ours) != outputs(theirs)
    assert capfd.readouterr().err.count("already answered by another worker") == 1


@pytest.mark.parametrize("survivor", [0, 1, 2])
def test_after_a_kill_only_the_missing_parts_are_computed(
    llama, llama_adapter, monkeypatch, survivor
):
    """Die in turn at the first, the second and the third part."""
    pairs = [*PAIRS[:4], (" \t", "an empty question"), *PAIRS[4:]]
    whole, store = MemoryStore(), MemoryStore()
    run(whole, llama, llama_adapter, pairs)
    stage = answering.prepared(store, llama, llama_adapter, pairs)
    settle = stage.settle

    def killed(name, data):
        if name == Shard().part(survivor):
            raise KilledError
        return settle(name, data)

    monkeypatch.setattr(stage, "settle", killed)
    with pytest.raises(KilledError):
        generate.run(stage)
    left = outputs(store)
    asked = []

    def counting(batch):
        asked.extend(request.id for request in batch if request.adapter)

    answering.before_batches(monkeypatch, counting)
    generate.run(StageRun.open(store, answering.RUN, "generate", stage.recipe))
    assert sorted(asked, key=int) == [str(n) for n in range(1 + 3 * survivor, 9) if n != 5]
    assert outputs(store) == outputs(whole)
    assert left.items() <= outputs(whole).items()
    assert manifests.load(store, answering.RUN, "generate")[0].outputs == (
        manifests.load(whole, answering.RUN, "generate")[0].outputs
    )


def test_a_signal_saves_what_is_done_and_says_how_to_go_on(llama, monkeypatch):
    store = MemoryStore()
    stage = answering.prepared(store, llama, None, PAIRS, adapter="none")

    def interrupted(batch):
        if any(request.id == "4" for request in batch):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    answering.before_batches(monkeypatch, interrupted)
    with pytest.raises(InterruptedRunError, match="stopped after 3 of 7 rows, saved; run the same"):
        generate.run(stage)
    assert signal.getsignal(signal.SIGTERM) is before
    assert list(outputs(store)) == ["parts/part-00000-00000.jsonl"]
    monkeypatch.undo()
    beat = {"done": 5, "rate_per_second": 0.5}
    store.replace(stage.key("progress.json"), json.dumps(beat).encode())
    again = StageRun.open(store, answering.RUN, "generate", stage.recipe)
    generate.run(again)
    assert len(lines(store, "parts/")) == 7
    assert again.seconds["lost"] == 4.0


def test_a_second_signal_ends_at_once(llama, monkeypatch):
    stage = answering.prepared(MemoryStore(), llama, None, PAIRS, adapter="none")

    def interrupted(batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still running")

    answering.before_batches(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate.run(stage)


def test_a_part_of_another_input_is_found(llama):
    store = MemoryStore()
    stage = answering.prepared(store, llama, None, PAIRS, adapter="none")
    row = AnsweredRow("99", "q", None, None, 1, Answer("a", 1, "stop", None), None)
    store.create(stage.key(Shard().part(1)), json.dumps(asdict(row)).encode() + b"\n")
    with pytest.raises(QatuneError, match=r"part-00000-00001.jsonl: the ledger is wrong: row '4'"):
        generate.run(stage)
    assert manifests.load(store, answering.RUN, "generate") is None


def test_a_damaged_adapter_is_named(llama, llama_adapter):
    store = MemoryStore()
    stage = answering.prepared(store, llama, llama_adapter, PAIRS)
    key = f"runs/{answering.RUN}/train/adapter/adapter_model.safetensors"
    data = bytearray(store.read(key))
    data[-1] ^= 1
    store.delete(key)
    store.create(key, bytes(data))
    with pytest.raises(MissingInputError, match=r"adapter_model.safetensors: damaged"):
        generate.run(stage)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_models_answer_with_their_adapter(folder, adapter, quantization):
    store = MemoryStore()
    model = {"quantization": quantization}
    stage = run(store, folder, adapter, PAIRS[:3], model=model)
    rows = lines(store, "parts/")
    assert len(rows) == 3
    assert any(row["base"]["text"] != row["adapter"]["text"] for row in rows)
    assert any("trained on float32" in note for note in stage.notes)


def test_with_every_part_there_nothing_is_answered_and_the_same_is_recorded(llama, monkeypatch):
    store = MemoryStore()
    stage = run(store, llama, None, adapter="none", model={"dtype": "float16"})
    before, _ = manifests.load(store, answering.RUN, "generate")
    store.delete(stage.key("manifest.json"))
    store.delete(stage.key("shards/00000.json"))
    answering.before_batches(monkeypatch, answering.killed)
    generate.run(StageRun.open(store, answering.RUN, "generate", stage.recipe))
    after, _ = manifests.load(store, answering.RUN, "generate")
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert (after.device, after.notes) == (before.device, before.notes)
    assert after.device != "cpu"
    assert "float16" in " ".join(after.notes)


@pytest.mark.parametrize("moment", ["_answerer", "_chunks"])
def test_a_signal_while_there_is_nothing_to_answer_yet_is_heeded(llama, monkeypatch, moment):
    """While the model is loaded, and while parts are looked for that are there."""
    stage = answering.prepared(MemoryStore(), llama, None, PAIRS, adapter="none")
    ours = getattr(generate, moment)

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return ours(*given)

    monkeypatch.setattr(generate, moment, interrupted)
    answering.before_batches(monkeypatch, answering.killed)
    with pytest.raises(QatuneError, match="before the first part of this start") as raised:
        generate.run(stage)
    assert raised.value.exit_code == 70


def test_a_signal_before_the_first_part_is_not_called_progress(llama, monkeypatch):
    stage = answering.prepared(MemoryStore(), llama, None, PAIRS, adapter="none")

    def interrupted(batch):
        os.kill(os.getpid(), signal.SIGTERM)

    answering.before_batches(monkeypatch, interrupted)
    with pytest.raises(QatuneError, match="before the first part of this start") as raised:
        generate.run(stage)
    assert raised.value.exit_code == 70


def test_an_adapter_with_biases_is_refused(llama, tmp_path):
    adapter = answering.random_adapter(llama, tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bias": "all"}))
    stage = answering.prepared(MemoryStore(), llama, None, PAIRS, adapter=str(adapter))
    with pytest.raises(MissingInputError, match="biases of its own"):
        generate.run(stage)


def test_another_tokenizer_than_that_of_the_rows_is_refused(llama, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(llama, folder)
    stage = answering.prepared(MemoryStore(), folder, None, PAIRS, adapter="none")
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    with pytest.raises(MissingInputError, match="not the one that the rows were tokenized with"):
        generate.run(stage)
