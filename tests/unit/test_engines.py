import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.support import answering, tiny

from qatune.config import Generate, Lora
from qatune.data.requests import Sampling
from qatune.model import adapters
from qatune.model.engines import protocol
from qatune.model.engines.choice import default_engine
from qatune.model.engines.continuous import ContinuousEngine, obstacle
from qatune.model.engines.protocol import Completion, Failure, Request
from qatune.model.engines.static import StaticEngine

SMOLLM2 = Path.home() / ".cache/qatune/models/smollm2-135m-instruct"
MAKERS = {"gpt2": tiny.tiny_gpt2, "llama": tiny.tiny_llama}
QUESTIONS = ("def add", "What does textwrap.dedent do?", "x", "a b c d e f g h", "leading " * 9)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def loaded(folder):
    return answering.load(folder)


@pytest.fixture(scope="module")
def adapted(folder, tmp_path_factory):
    into = answering.random_adapter(folder, tmp_path_factory.mktemp("adapter"))
    fresh = answering.load(folder)
    return dataclasses.replace(fresh, model=PeftModel.from_pretrained(fresh.model, into).eval())


def requests(loaded, **changes):
    made = {"max_new_tokens": 12} | changes
    return [
        Request(f"row {number}", loaded.tokenizer(text)["input_ids"], **made)
        for number, text in enumerate(QUESTIONS)
    ]


@pytest.fixture(params=[StaticEngine, ContinuousEngine])
def engine(request):
    return request.param


def answers(engine, loaded, wanted, batch_size=16):
    results = list(engine(loaded, batch_size).generate(wanted))
    assert all(isinstance(result, Completion) for result in results), results
    return {
        (result.request.id, result.request.adapter): (result.token_ids, result.finish)
        for result in results
    }


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, top_p=0.95, top_k=50, seed=7)])
def test_an_answer_is_the_same_alone_and_in_any_batch(engine, loaded, sampling):
    wanted = requests(loaded, sampling=sampling)
    together = answers(engine, loaded, wanted)
    alone = {}
    for request in wanted:
        alone |= answers(engine, loaded, [request])
    assert together == alone == answers(engine, loaded, wanted[::-1], batch_size=2)
    assert len({tuple(ids) for ids, _ in together.values()}) > 1


def test_greedy_is_what_the_model_itself_finds_likeliest(engine, loaded):
    request = requests(loaded)[1]
    ids = list(request.prompt_ids)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == loaded.tokenizer.eos_token_id:
            break
    assert (
        answers(engine, loaded, requests(loaded))["row 1", False][0]
        == ids[len(request.prompt_ids) :]
    )


def test_settings_in_the_models_folder_do_not_count(engine, folder, loaded):
    expected = answers(engine, loaded, requests(loaded))
    fresh = answering.load(folder)
    fresh.model.generation_config.update(
        repetition_penalty=5.0, do_sample=True, temperature=3.0, max_new_tokens=1, min_new_tokens=40
    )
    assert answers(engine, fresh, requests(fresh)) == expected


def test_rows_may_have_different_budgets(engine, loaded):
    wanted = [
        Request(request.id, request.prompt_ids, 1 + 3 * number)
        for number, request in enumerate(requests(loaded))
    ]
    longest = answers(engine, loaded, requests(loaded, max_new_tokens=13))
    for (row_id, _), (ids, finish) in answers(engine, loaded, wanted).items():
        budget = 1 + 3 * int(row_id.removeprefix("row "))
        assert ids == longest[row_id, False][0][:budget]
        assert finish == ("stop" if ids[-1] == loaded.tokenizer.eos_token_id else "length")


def test_stop_ends_with_eos(engine, loaded):
    wanted = requests(loaded)
    first = answers(engine, loaded, wanted)["row 0", False][0][3]
    stopping = dataclasses.replace(loaded, tokenizer=SimpleNamespace(eos_token_id=first))
    ids, finish = answers(engine, stopping, wanted)["row 0", False]
    assert (ids[-1], finish) == (first, "stop")
    assert ids.index(first) == len(ids) - 1


def test_the_budget_is_cut_to_the_positions_that_are_left(engine, loaded):
    """Rows near the end of the positions share a call with short ones: none may overrun."""
    full = [[5] * (loaded.positions - left) for left in (1, 2, 9)]
    wanted = [Request(f"full {len(ids)}", ids, 30) for ids in full]
    results = answers(engine, loaded, [*wanted, *requests(loaded, max_new_tokens=40)])
    for ids, left in zip(full, (1, 2, 9), strict=True):
        answer, finish = results[f"full {len(ids)}", False]
        assert len(answer) == left or finish == "stop"
    assert {key: results[key] for key in results if key[0].startswith("row")} == answers(
        engine, loaded, requests(loaded, max_new_tokens=40)
    )


def test_impossible_requests_fail_alone(engine, loaded):
    bad = [
        Request("full", [5] * loaded.positions, 4),
        Request("empty", [], 4),
        Request("foreign", [5, 10**6], 4),
        Request("negative", [-1], 4),
    ]
    good = requests(loaded)
    results = list(engine(loaded, 4).generate([*bad, *good]))
    failures = {r.request.id: r.fault.code for r in results if isinstance(r, Failure)}
    assert failures == {
        "full": "context_full",
        "empty": "empty_prompt",
        "foreign": "out_of_vocabulary",
        "negative": "out_of_vocabulary",
    }
    completed = {
        (r.request.id, False): (r.token_ids, r.finish) for r in results if r.request in good
    }
    assert completed == answers(engine, loaded, good)


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("poison\nrow"), "engine_error"), (torch.OutOfMemoryError("m"), "out_of_memory")],
)
def test_a_row_that_makes_the_engine_raise_is_the_only_one_lost(
    engine, loaded, monkeypatch, error, code
):
    good = requests(loaded)
    expected = answers(engine, loaded, good)
    poison = Request("poison", [42, 43, 44, 42], 4)
    forward = loaded.model.base_model.forward

    def failing(input_ids, **settings):
        padded = (poison.prompt_ids in (row[:4], row[-4:]) for row in input_ids.tolist())
        if any(padded):
            raise error
        return forward(input_ids=input_ids, **settings)

    monkeypatch.setattr(loaded.model.base_model, "forward", failing)
    results = list(engine(loaded, 16).generate([*good, poison]))
    (failure,) = [r for r in results if isinstance(r, Failure)]
    assert (failure.request, failure.fault.code) == (poison, code)
    assert "\n" not in failure.fault.message
    assert {
        (r.request.id, False): (r.token_ids, r.finish) for r in results if r is not failure
    } == expected


def test_a_row_that_breaks_the_engine_later_is_the_only_one_lost(engine, loaded, monkeypatch):
    good = answers(engine, loaded, requests(loaded, max_new_tokens=20))
    tokens = {key: set(ids[:-1]) for key, (ids, _) in good.items()}
    poisoned, own = next(
        (key, own)
        for key in tokens
        if (own := tokens[key] - set.union(*(tokens[other] for other in tokens if other != key)))
    )
    forward = loaded.model.base_model.forward

    def failing(input_ids, **settings):
        if input_ids.shape[1] == 1 and own & set(input_ids.flatten().tolist()):
            raise RuntimeError("poison")
        return forward(input_ids=input_ids, **settings)

    monkeypatch.setattr(loaded.model.base_model, "forward", failing)
    results = list(engine(loaded, 16).generate(requests(loaded, max_new_tokens=20)))
    (failure,) = [r for r in results if isinstance(r, Failure)]
    assert failure.request.id == poisoned[0]
    del good[poisoned]
    assert {
        (r.request.id, False): (r.token_ids, r.finish) for r in results if r is not failure
    } == good


def test_a_lost_device_is_not_a_rows_fault(engine, loaded, monkeypatch):
    def failing(*_, **__):
        raise torch.AcceleratorError("device-side assert")

    monkeypatch.setattr(loaded.model.base_model, "forward", failing)
    with pytest.raises(torch.AcceleratorError):
        list(engine(loaded, 16).generate(requests(loaded)))


def test_base_and_adapter_answer_from_one_model(engine, loaded, adapted):
    plain, tuned = requests(adapted), requests(adapted, adapter=True)
    results = answers(engine, adapted, [*plain, *tuned])
    assert {key: results[key] for key in results if not key[1]} == answers(engine, loaded, plain)
    changed = [
        row
        for row in range(len(plain))
        if results[f"row {row}", True] != results[f"row {row}", False]
    ]
    assert len(changed) == len(plain)


def test_without_an_adapter_none_can_answer(engine, loaded):
    with pytest.raises(Exception, match="none is attached"):
        list(engine(loaded, 16).generate(requests(loaded, adapter=True)))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, top_p=0.95, top_k=50, seed=7)])
@pytest.mark.parametrize("places", [1, 2, 5, 16])
def test_rows_that_come_and_go_are_answered_as_in_fixed_batches(adapted, sampling, places):
    wanted = [
        dataclasses.replace(request, max_new_tokens=budget, sampling=sampling, adapter=adapter)
        for request, budget in zip(requests(adapted), (3, 40, 1, 17, 26), strict=True)
        for adapter in (False, True)
    ]
    expected = answers(StaticEngine, adapted, wanted)
    assert answers(ContinuousEngine, adapted, wanted[::-1], places) == expected


def passes(monkeypatch, engine, loaded, wanted, places):
    """Count the forward passes that some answers take."""
    backbone, count = protocol.causal_lm(loaded.model).base_model, 0
    forward = backbone.forward

    def counted(*given, **more):
        nonlocal count
        count += 1
        return forward(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "forward", counted)
        answers(engine, loaded, wanted, places)
    return count


def test_base_and_adapter_share_each_pass_and_places_are_filled_at_once(adapted, monkeypatch):
    both = [*requests(adapted), *requests(adapted, adapter=True)]
    assert passes(monkeypatch, StaticEngine, adapted, both, 5) == 24
    assert passes(monkeypatch, ContinuousEngine, adapted, both, 5) == 12
    uneven = [Request(str(length), [5] * length, 20 if length % 2 else 2) for length in range(1, 7)]
    steps = passes(monkeypatch, ContinuousEngine, adapted, uneven, 2)
    assert steps < passes(monkeypatch, StaticEngine, adapted, uneven, 2)


@pytest.mark.parametrize(
    ("maker", "reason"),
    [
        (lambda loaded: loaded.model.set_attn_implementation("eager"), "attention is not torch's"),
        (lambda loaded: setattr(loaded.model.config, "sliding_window", 8), "attend to the whole"),
        (lambda loaded: setattr(loaded.model.config, "alibi", True), "takes no positions"),
    ],
)
def test_a_model_whose_rows_cannot_come_and_go_is_answered_in_batches(folder, maker, reason):
    loaded, notes = answering.load(folder), []
    spec = Generate(batch_size=4)
    assert isinstance(default_engine(loaded, spec, notes.append), ContinuousEngine)
    assert notes == []
    maker(loaded)
    assert isinstance(default_engine(loaded, spec, notes.append), StaticEngine)
    (note,) = notes
    assert reason in note
    assert note.endswith("static is used instead")


def test_an_adapter_of_another_kind_is_answered_in_batches(tmp_path):
    settings = LoraConfig(target_modules="all-linear", use_dora=True)
    model = get_peft_model(answering.load(tiny.tiny_llama(tmp_path)).model, settings)
    assert "cannot be switched row by row" in obstacle(model)


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="the demo's model is not here")
def test_a_real_model_and_adapter_answer_as_in_fixed_batches():
    loaded = answering.load(SMOLLM2)
    model = adapters.create(loaded.model, Lora(), seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(std=0.005, generator=generator)
    loaded = dataclasses.replace(loaded, model=model.eval())
    wanted = [
        Request(text, loaded.tokenizer(text)["input_ids"], 4 + 5 * number, adapter=adapter)
        for number, text in enumerate(QUESTIONS)
        for adapter in (False, True)
    ]
    assert answers(ContinuousEngine, loaded, wanted, 3) == answers(StaticEngine, loaded, wanted)
