"""Engines answer prompts with a loaded model. One small interface, so that they can be swapped."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria
from transformers import StoppingCriteriaList as Criteria

from qatune.data.records import Finish
from qatune.data.requests import Fault, Sampling
from qatune.errors import QatuneError
from qatune.model import devices
from qatune.model.loading import LoadedModel
from qatune.model.sampling import RowSampler

ENGINE_ERROR = "engine_error"
OUT_OF_MEMORY = "out_of_memory"
_NO_MEMORY = "can't allocate memory"  # torch on a CPU has no class of its own for it
_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True)
class Request:
    """A prompt to answer."""

    id: str
    prompt_ids: Sequence[int]
    max_new_tokens: int
    """At least 1. Cut to what the model's positions leave."""
    sampling: Sampling = field(default_factory=Sampling)
    adapter: bool = False
    """Answer with the adapter; False answers with the base model."""


@dataclass(frozen=True)
class Completion:
    request: Request
    token_ids: list[int]
    """Generated ids; with finish `stop` the last one is EOS."""
    finish: Finish


@dataclass(frozen=True)
class Failure:
    """A request that got no answer; the others are none the worse for it."""

    request: Request
    fault: Fault


class Engine(Protocol):
    def generate(self, requests: Sequence[Request]) -> Iterator[Completion | Failure]:
        """Yield each request's result once, as it is ready, in any order."""


class StaticEngine:
    """Batches of like length through `model.generate`, padded on the left.

    Base and adapter share one set of weights: the adapter is switched off for the base.
    In float32 an answer does not depend on the batch it was made in.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int) -> None:
        """Take over `loaded.model`: the generation settings of its folder no longer count."""
        self._loaded = loaded
        self._eos = int(loaded.tokenizer.eos_token_id)
        self._words = vocabulary(loaded.model)
        self._batch_size = batch_size
        forget_folder_settings(loaded.model)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion | Failure]:
        """Yield results batch by batch, short prompts first, base and adapter in turn."""
        fitting = []
        for request in requests:
            if fault := check(request, self._loaded.positions, self._words):
                yield Failure(request, fault)
            else:
                fitting.append(request)
        base = self._batches([request for request in fitting if not request.adapter])
        adapter = self._batches([request for request in fitting if request.adapter])
        for batch in chain.from_iterable(zip_longest(base, adapter)):
            if batch:
                yield from self._answer(batch)

    def _budget(self, request: Request) -> int:
        return min(request.max_new_tokens, self._loaded.positions - len(request.prompt_ids))

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """Split into batches in which even the longest prompt may use the largest budget.

        A row that has ended is padded on until its batch has: it must not run out of positions.
        """
        batch: list[Request] = []
        steps = 0
        for request in sorted(requests, key=lambda row: (len(row.prompt_ids), self._budget(row))):
            steps = max(steps, self._budget(request))
            overflows = len(request.prompt_ids) + steps > self._loaded.positions
            if batch and (len(batch) == self._batch_size or overflows):
                yield batch
                batch, steps = [], self._budget(request)
            batch.append(request)
        if batch:
            yield batch

    def _answer(self, batch: Sequence[Request]) -> Iterator[Completion | Failure]:
        """Answer a batch; if it fails, row by row, so that only the poison row is lost."""
        try:
            completed = self._complete(batch)
        except (torch.AcceleratorError, QatuneError):
            raise  # the device is gone: no row can be answered any more
        except Exception as error:  # noqa: BLE001 - whatever a row provokes is that row's error
            failure = Failure(batch[0], error_fault(error))
        else:
            yield from completed
            return
        devices.free_memory()
        if len(batch) == 1:
            yield failure
        else:
            for request in batch:
                yield from self._answer([request])

    def _complete(self, batch: Sequence[Request]) -> list[Completion]:
        budgets = [self._budget(request) for request in batch]
        with variant(self._loaded.model, adapter=batch[0].adapter):
            generated = generate_ids(self._loaded, batch, budgets)
        return [
            Completion(request, ids, "stop" if ids[-1] == self._eos else "length")
            for request, ids in zip(batch, generated, strict=True)
        ]


def generate_ids(
    loaded: LoadedModel, batch: Sequence[Request], budgets: Sequence[int], **more: Any
) -> list[list[int]]:
    """Return the ids that each row adds to its prompt, up to its budget or its first EOS.

    `more` goes to `model.generate`. Prompt and largest budget must fit the model's positions.
    """
    eos = int(loaded.tokenizer.eos_token_id)
    ids, mask = _left_padded([request.prompt_ids for request in batch], eos)
    width = ids.shape[1]
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max(budgets),
        eos_token_id=eos,
        pad_token_id=eos,
    )
    sampler = RowSampler([(request.id, request.sampling) for request in batch], width)
    output = loaded.model.generate(
        input_ids=ids.to(loaded.device),
        attention_mask=mask.to(loaded.device),
        generation_config=settings,
        logits_processor=LogitsProcessorList([sampler]),
        stopping_criteria=Criteria([_RowBudgets(budgets, width)]),
        **more,
    )
    rows = output[:, width:].tolist()
    return [until(eos, row[:budget]) for row, budget in zip(rows, budgets, strict=True)]


def until(eos: int, ids: list[int]) -> list[int]:
    """Cut what follows the first EOS."""
    return ids[: ids.index(eos) + 1] if eos in ids else ids


def forget_folder_settings(model: Any) -> None:
    """Drop the model folder's generation settings, which generate() falls back to.

    A repetition penalty there, say, would change answers without the recipe's knowledge.
    """
    for one in {model, causal_lm(model)}:
        one.generation_config = GenerationConfig()


def check(request: Request, positions: int, words: int) -> Fault | None:
    """Name what makes a request impossible for a model, before it can harm a batch."""
    if not request.prompt_ids:
        return Fault("empty_prompt", "the question has no tokens")
    if len(request.prompt_ids) >= positions:
        return Fault(
            "context_full",
            f"the question takes {len(request.prompt_ids)} tokens and the model holds {positions}: "
            "no room for an answer",
        )
    return foreign_token(request.prompt_ids, words)


def foreign_token(ids: Sequence[int], words: int) -> Fault | None:
    """Name the first id that a model with `words` embeddings does not have."""
    for token in ids:
        if not 0 <= token < words:
            return Fault("out_of_vocabulary", f"token {token} is not one of the model's {words}")
    return None


def vocabulary(model: Any) -> int:
    """Count the tokens that the model has an embedding for."""
    return int(model.get_input_embeddings().weight.shape[0])


def causal_lm(model: Any) -> Any:
    """Return the model itself, without the wrapping of its adapter."""
    return model.get_base_model() if has_adapter(model) else model


def has_adapter(model: Any) -> bool:
    return hasattr(model, "disable_adapter")


def variant(model: Any, *, adapter: bool) -> AbstractContextManager[Any]:
    """Answer as the adapter, or as the base alone, inside; both share the base's weights."""
    if adapter and not has_adapter(model):
        raise QatuneError("an answer of the adapter was asked for, but none is attached")
    switched: AbstractContextManager[Any] = (
        model.disable_adapter() if has_adapter(model) and not adapter else nullcontext()
    )
    return switched


def error_fault(error: Exception) -> Fault:
    """Describe in one line what an engine raised for a row."""
    text = " ".join(str(error).split()) or type(error).__name__
    no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY in text
    code = OUT_OF_MEMORY if no_memory else ENGINE_ERROR
    return Fault(code, text[:_MESSAGE_CHARACTERS])


class _RowBudgets(StoppingCriteria):  # type: ignore[misc]
    """Ends each row after its own number of tokens."""

    def __init__(self, budgets: Sequence[int], prompt_width: int) -> None:
        self._last = torch.tensor(budgets) + prompt_width

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_: Any) -> Tensor:
        return (self._last <= input_ids.shape[1]).to(input_ids.device)


def _left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, (prompts, longest), each prompt ending at the right edge."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
        mask[row, width - len(prompt) :] = 1
    return ids, mask
