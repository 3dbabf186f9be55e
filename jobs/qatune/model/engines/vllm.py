"""Answers through vLLM on a GPU, the adapter as a LoRA request. Greedy only, as its draws differ.

It has been run against a stand-in of vLLM's interface alone, not on a GPU.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from qatune.errors import BadRecipeError
from qatune.importing import check_engine
from qatune.model.engines.protocol import (
    Completion,
    Failure,
    Request,
    budget,
    completion,
    sort_out,
    until,
    vocabulary,
)
from qatune.model.engines.static import isolated
from qatune.model.loading import LoadedModel
from qatune.model.opening import FoundModel

_MEMORY_SHARE = 0.5
"""Of the GPU. The loaded model, which scores, and its batches need the rest."""


class VllmEngine:
    def __init__(self, library: Any, model: FoundModel, loaded: LoadedModel) -> None:
        self._library, self._loaded = library, loaded
        self.compute_type = loaded.dtype
        self._eos = int(loaded.tokenizer.eos_token_id)
        self._lora, more = None, {}
        if model.adapter is not None:
            self._lora = library.lora.request.LoRARequest("adapter", 1, str(model.adapter))
            rank = loaded.model.peft_config["default"].r
            more = {"enable_lora": True, "max_lora_rank": rank}
        self._llm = library.LLM(
            model=str(model.base.path),
            dtype=loaded.dtype,
            max_model_len=loaded.positions,
            gpu_memory_utilization=_MEMORY_SHARE,
            **more,
        )

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion | Failure]:
        """Yield results once all are there; vLLM batches them itself."""
        words = vocabulary(self._loaded.model)
        greedy, failures = sort_out(requests, self._loaded.positions, words, "vllm")
        yield from failures
        if greedy:
            yield from isolated(greedy, self._complete)

    def score(self, answered: Sequence[Completion]) -> list[float]:
        """Return each answer's mean negative log-likelihood per token, in nats."""
        texts = [[*each.request.prompt_ids, *each.token_ids] for each in answered]
        settings = self._library.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        outputs = self._ask(texts, settings, [each.request for each in answered])
        means = []
        for each, ids, output in zip(answered, texts, outputs, strict=True):
            start = len(each.request.prompt_ids)
            own = zip(ids[start:], output.prompt_logprobs[start:], strict=True)
            means.append(-sum(known[token].logprob for token, known in own) / len(each.token_ids))
        return means

    def _complete(self, requests: Sequence[Request]) -> list[Completion]:
        settings = [
            self._library.SamplingParams(
                temperature=0,
                max_tokens=budget(request, self._loaded.positions),
                stop_token_ids=[self._eos],
                detokenize=False,
            )
            for request in requests
        ]
        outputs = self._ask([list(each.prompt_ids) for each in requests], settings, requests)
        return [
            completion(request, until(self._eos, list(output.outputs[0].token_ids)), self._eos)
            for request, output in zip(requests, outputs, strict=True)
        ]

    def _ask(self, texts: Sequence[list[int]], settings: Any, asked: Sequence[Request]) -> Any:
        return self._llm.generate(
            [{"prompt_token_ids": ids} for ids in texts],
            settings,
            lora_request=[self._lora if request.adapter else None for request in asked],
            use_tqdm=False,
        )


def open_engine(model: FoundModel, loaded: LoadedModel) -> VllmEngine:
    """Load the base once, for answers with and without the adapter.

    Raises BadRecipeError where there is no GPU, or vLLM is not installed.
    """
    if loaded.device != "cuda":
        raise BadRecipeError("recipe.generate.engine: vllm needs a GPU; set engine to continuous")
    check_engine("vllm")
    import vllm
    import vllm.lora.request

    return VllmEngine(vllm, model, loaded)
