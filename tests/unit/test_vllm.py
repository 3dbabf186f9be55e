"""What vLLM would be asked, by a stand-in that answers with the model itself."""

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tests.support import answering, tiny

from qatune.data.requests import Sampling
from qatune.errors import BadRecipeError
from qatune.model.engines import parity, vllm
from qatune.model.engines.protocol import Completion, Failure, Request, variant
from qatune.model.engines.static import StaticEngine
from qatune.model.opening import FoundModel
from qatune.store.objects import describe_source
from qatune.store.sources import ModelFolder


class StandIn:
    """vllm.LLM's interface over transformers, one prompt at a time."""

    def __init__(self, model, **settings):
        self.settings = settings

    def generate(self, prompts, params, lora_request, use_tqdm):
        each = params if isinstance(params, list) else [params] * len(prompts)
        return [
            self._one(prompt["prompt_token_ids"], asked, lora)
            for prompt, asked, lora in zip(prompts, each, lora_request, strict=True)
        ]

    def _one(self, ids, asked, lora):
        assert asked.temperature == 0
        with variant(self.loaded.model, adapter=lora is not None), torch.no_grad():
            logprobs = self.loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            request = Request("x", ids, asked.max_tokens, adapter=lora is not None)
        (result,) = StaticEngine(self.loaded, 1).generate([request])
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=tuple(result.token_ids))],
            prompt_logprobs=[None]
            + [{token: SimpleNamespace(logprob=float(logprobs[at, token]))}
               for at, token in enumerate(ids[1:])],
        )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tiny.tiny_llama(tmp_path_factory.mktemp("llama"))
    adapter = answering.random_adapter(folder, tmp_path_factory.mktemp("adapter"))
    refs = [describe_source(path.name, path) for path in sorted(folder.iterdir())]
    model = FoundModel(ModelFolder(folder, None, str(folder)), refs, adapter, ())
    loaded = model.load(answering.recipe(folder).model, print)
    return model, dataclasses.replace(loaded, device="cuda")


@pytest.fixture
def engine(made, monkeypatch):
    model, loaded = made
    library, lora, request = (
        ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request")
    )
    library.LLM, library.lora, lora.request = StandIn, lora, request
    library.SamplingParams = SimpleNamespace
    request.LoRARequest = lambda *fields: fields
    for module in (library, lora, request):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    StandIn.loaded = dataclasses.replace(loaded, device="cpu")
    return vllm.open_engine(model, loaded)


def asked(made, **more):
    ids = made[1].tokenizer("def add")["input_ids"]
    return [
        Request(str(length), [*ids, *range(5, 5 + length)], 4 + length, adapter=adapter, **more)
        for length in (0, 3)
        for adapter in (False, True)
    ]


def test_base_and_adapter_answer_from_one_model_as_the_default_engine_does(made, engine):
    assert engine._llm.settings["max_lora_rank"] == 8
    assert engine._llm.settings["max_model_len"] == 256
    results = list(engine.generate(asked(made)))
    assert results == list(StaticEngine(StandIn.loaded, 1).generate(asked(made)))
    assert all(isinstance(each, Completion) for each in results)


def test_its_certificate_states_parity(made, engine):
    spec = answering.recipe(made[0].base.path, engine="vllm").generate
    default = StaticEngine(StandIn.loaded, 4)
    certificate = parity.certify(engine, default, StandIn.loaded, asked(made), spec)
    assert (certificate.engine, certificate.compute_type) == ("vllm", "float32")
    assert (certificate.rows, certificate.rows_equal) == (4, 4)
    assert certificate.largest_difference < 1e-4
    assert certificate.passed


def test_rows_that_sample_or_break_it_are_lost_alone(made, engine, monkeypatch):
    good = asked(made)
    poison = Request("poison", [7, 7, 7], 4)
    sampled = dataclasses.replace(good[0], id="sampled", sampling=Sampling(1.0))
    one = StandIn._one

    def failing(self, ids, *more):
        if ids == [7, 7, 7]:
            raise ValueError("poison")
        return one(self, ids, *more)

    monkeypatch.setattr(StandIn, "_one", failing)
    results = list(engine.generate([sampled, poison, *good]))
    codes = {each.request.id: each.fault.code for each in results if isinstance(each, Failure)}
    assert codes == {"sampled": "unsupported_sampling", "poison": "engine_error"}
    assert len(results) == 2 + len(good)


def test_without_a_gpu_or_the_package_the_recipe_is_wrong(made):
    model, loaded = made
    with pytest.raises(BadRecipeError, match="needs a GPU"):
        vllm.open_engine(model, dataclasses.replace(loaded, device="cpu"))
    with pytest.raises(BadRecipeError, match=r"install qatune\[vllm\]"):
        vllm.open_engine(model, loaded)
