"""What every engine is asked and gives, and what is checked before any of them."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from qatune.data.records import Finish
from qatune.data.requests import Fault, Sampling
from qatune.errors import QatuneError

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


def completion(request: Request, ids: list[int], eos: int) -> Completion:
    return Completion(request, ids, "stop" if ids[-1] == eos else "length")


def budget(request: Request, positions: int) -> int:
    """Tokens that the answer may have: what was asked for, or what the positions leave."""
    return min(request.max_new_tokens, positions - len(request.prompt_ids))


def sort_out(
    requests: Sequence[Request], positions: int, words: int, greedy_only: str = ""
) -> tuple[list[Request], list[Failure]]:
    """Divide requests into those that can be answered and those that cannot.

    `greedy_only` names an engine whose random draws are not ours.
    """
    fitting, failures = [], []
    for request in requests:
        fault = check(request, positions, words)
        if greedy_only and not fault:
            fault = _greedy_fault(request, greedy_only)
        if fault:
            failures.append(Failure(request, fault))
        else:
            fitting.append(request)
    return fitting, failures


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


def _greedy_fault(request: Request, engine: str) -> Fault | None:
    """Name what keeps a request from an engine whose random draws are not ours."""
    if request.sampling.temperature <= 0:
        return None
    return Fault(
        "unsupported_sampling",
        f"{engine} draws otherwise than (seed, id) say: set temperature 0, or engine continuous",
    )


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


def require_adapter(model: Any) -> None:
    if not has_adapter(model):
        raise QatuneError("an answer of the adapter was asked for, but none is attached")


def variant(model: Any, *, adapter: bool) -> AbstractContextManager[Any]:
    """Answer as the adapter, or as the base alone, inside; both share the base's weights."""
    if adapter:
        require_adapter(model)
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
