"""Continuous batching: a row that has ended leaves its place to the next one at once.

Rows of base and adapter share each forward pass. A prompt is read alone or with those that come
with it, padded on the right, and its keys and values are copied into a slot (`slots.py`).
transformers' own continuous batching was not taken: one bad token fails every row of it, and it
knows no sampling of our own.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from qatune.errors import QatuneError
from qatune.model import devices
from qatune.model.engines import protocol
from qatune.model.engines.protocol import Completion, Failure, Request
from qatune.model.engines.shared_pass import adapter_from, lora_layers, odd_layer
from qatune.model.engines.slots import SlotCache
from qatune.model.loading import LoadedModel
from qatune.model.sampling import draw
from qatune.model.scoring import logits


def obstacle(model: Any) -> str | None:
    """Name what keeps a model's rows from coming and going one by one; None if nothing does."""
    plain = protocol.causal_lm(model)
    settings = plain.config.get_text_config()
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=settings).layers):
        return "not all of its layers attend to the whole text"
    if plain.config._attn_implementation != "sdpa":  # noqa: SLF001 - it has no public name
        return "its attention is not torch's"
    if (
        getattr(settings, "alibi", False)
        or "position_ids" not in signature(plain.base_model.forward).parameters
    ):
        return "it takes no positions"
    if kind := odd_layer(lora_layers(model)):
        return f"its adapter has a {kind} layer that cannot be switched row by row"
    return None


@dataclass
class _Row:
    request: Request
    budget: int
    ids: list[int] = field(default_factory=list)


class ContinuousEngine:
    """Up to `batch_size` rows of the base and as many of the adapter, one forward pass for all.

    In float32 its answers are those of the static engine.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int) -> None:
        self._loaded = loaded
        self._words = protocol.vocabulary(loaded.model)
        self._batch_size = batch_size

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion | Failure]:
        """Yield each result as its row ends; short prompts come first."""
        if any(request.adapter for request in requests):
            protocol.require_adapter(self._loaded.model)
        fitting, failures = protocol.sort_out(requests, self._loaded.positions, self._words)
        yield from failures
        yield from self._answer(sorted(fitting, key=lambda request: len(request.prompt_ids)))

    def _answer(self, requests: Sequence[Request]) -> Iterator[Completion | Failure]:
        waiting = {
            adapter: deque(each for each in requests if each.adapter == adapter)
            for adapter in (False, True)
        }
        table = _Table(self._loaded, self._batch_size)
        while any(waiting.values()) or table.at_work:
            coming = [
                waiting[adapter].popleft()
                for adapter in (False, True)
                for _ in range(min(table.room(adapter=adapter), len(waiting[adapter])))
            ]
            at_work = [*table.at_work, *coming]
            try:
                ended = table.admit(coming) + table.step()
            except (torch.AcceleratorError, QatuneError):
                raise  # the device is gone: no row can be answered any more
            except Exception as error:  # noqa: BLE001 - whatever a row provokes is that row's error
                failure = Failure(at_work[0], protocol.error_fault(error))
            else:
                yield from ended
                continue
            table = _Table(self._loaded, self._batch_size)
            devices.free_memory()
            yield from self._halves(at_work, failure)

    def _halves(
        self, requests: Sequence[Request], failure: Failure
    ) -> Iterator[Completion | Failure]:
        """Answer again what failed together, half by half, until the poison row stands alone."""
        if len(requests) == 1:
            yield failure
            return
        middle = len(requests) // 2
        yield from self._answer(requests[:middle])
        yield from self._answer(requests[middle:])


class _Table:
    """The rows at work, and their next tokens."""

    def __init__(self, loaded: LoadedModel, each: int) -> None:
        self._loaded, self._each = loaded, each
        self._eos = int(loaded.tokenizer.eos_token_id)
        self._model = protocol.causal_lm(loaded.model)
        self._lora = lora_layers(loaded.model)
        self._config = self._model.config.get_text_config()
        self._cache = SlotCache(len(DynamicCache(config=self._config).layers), each, loaded.device)
        self._rows: dict[int, _Row] = {}

    @property
    def at_work(self) -> list[Request]:
        return [row.request for row in self._rows.values()]

    def room(self, *, adapter: bool) -> int:
        return self._each - (self._cache.adapter if adapter else self._cache.base)

    def admit(self, requests: Sequence[Request]) -> list[Completion]:
        """Read prompts, the base's first, and choose their first tokens; return who has ended."""
        if not requests:
            return []
        prompts = [torch.tensor(request.prompt_ids) for request in requests]
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=self._eos)
        prefilled = DynamicCache(config=self._config)
        base = sum(not request.adapter for request in requests)
        hidden = self._forward(base, ids, prefilled)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts])
        rows = [_Row(each, protocol.budget(each, self._loaded.positions)) for each in requests]
        self._choose(rows, hidden[torch.arange(len(rows)), last])
        for index, row in enumerate(rows):
            if not self._has_ended(row):
                length = len(row.request.prompt_ids)
                slot = self._cache.take(prefilled, index, length, adapter=row.request.adapter)
                self._rows[slot] = row
        return [self._completion(row) for row in rows if self._has_ended(row)]

    def step(self) -> list[Completion]:
        """Give each row at work its next token; return those that have ended."""
        slots = range(self._cache.active.start, self._cache.active.stop)
        if not slots:
            return []
        rows = [self._rows[slot] for slot in slots]
        columns = self._cache.prepare()
        hidden = self._forward(
            self._cache.base,
            torch.tensor([row.ids[-1:] for row in rows]),
            self._cache,
            attention_mask=self._cache.mask(),
            position_ids=columns[:, None],
        )
        self._cache.advance()
        self._choose(rows, hidden[:, -1])
        ended = [slot for slot in slots if self._has_ended(self._rows[slot])]
        completions = [self._completion(self._rows[slot]) for slot in ended]
        # The outermost first: what moves into a free slot is then always a row that goes on.
        for slot in sorted(
            ended, key=lambda slot: abs(slot - self._cache.each + 0.5), reverse=True
        ):
            outermost = self._cache.release(slot)
            self._rows[slot] = self._rows[outermost]
            del self._rows[outermost]
        return completions

    def _forward(self, base: int, ids: Tensor, cache: Any, **more: Any) -> Tensor:
        """Return the last states, (rows, tokens, width). Rows from `base` on are adapted."""
        with torch.no_grad(), adapter_from(self._lora, base):
            states: Tensor = self._model.base_model(
                input_ids=ids.to(self._loaded.device), past_key_values=cache, use_cache=True, **more
            ).last_hidden_state
        return states

    def _choose(self, rows: Sequence[_Row], hidden: Tensor) -> None:
        """Add to each row the token that its state, of (rows, width), leads to."""
        with torch.no_grad():
            scores = logits(self._model, hidden)
            likeliest = scores.argmax(dim=-1).tolist()
            for row, token, own in zip(rows, likeliest, scores, strict=True):
                request = row.request
                sampled = request.sampling.temperature > 0
                drawn = draw(own, request.id, request.sampling, len(row.ids)) if sampled else token
                row.ids.append(int(drawn))

    def _has_ended(self, row: _Row) -> bool:
        return len(row.ids) == row.budget or row.ids[-1] == self._eos

    def _completion(self, row: _Row) -> Completion:
        return protocol.completion(row.request, row.ids, self._eos)
