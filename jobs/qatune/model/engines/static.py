"""The plain engine: batches of like length through `model.generate`. What others must equal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria
from transformers import StoppingCriteriaList as Criteria

from qatune.errors import QatuneError
from qatune.model import devices
from qatune.model.engines.protocol import (
    Completion,
    Failure,
    Request,
    budget,
    completion,
    error_fault,
    forget_folder_settings,
    sort_out,
    until,
    variant,
    vocabulary,
)
from qatune.model.loading import LoadedModel
from qatune.model.sampling import RowSampler


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
        fitting, failures = sort_out(requests, self._loaded.positions, self._words)
        yield from failures
        for batch in alternating(
            batches(
                [row for row in fitting if row.adapter == adapter],
                self._batch_size,
                self._loaded.positions,
            )
            for adapter in (False, True)
        ):
            yield from isolated(batch, self._complete)

    def _complete(self, batch: Sequence[Request]) -> list[Completion]:
        budgets = [budget(request, self._loaded.positions) for request in batch]
        with variant(self._loaded.model, adapter=batch[0].adapter):
            generated = generate_ids(self._loaded, batch, budgets)
        return [
            completion(request, ids, self._eos)
            for request, ids in zip(batch, generated, strict=True)
        ]


def batches(requests: Sequence[Request], size: int, positions: int) -> Iterator[list[Request]]:
    """Split into batches in which even the longest prompt may use the largest budget.

    A row that has ended is padded on until its batch has: it must not run out of positions.
    """

    def own(request: Request) -> int:
        return budget(request, positions)

    batch: list[Request] = []
    steps = 0
    for request in sorted(requests, key=lambda row: (len(row.prompt_ids), own(row))):
        steps = max(steps, own(request))
        overflows = len(request.prompt_ids) + steps > positions
        if batch and (len(batch) == size or overflows):
            yield batch
            batch, steps = [], own(request)
        batch.append(request)
    if batch:
        yield batch


def alternating(divided: Iterable[Iterator[list[Request]]]) -> Iterator[list[Request]]:
    """Take batches of base and adapter in turn."""
    return (batch for batch in chain.from_iterable(zip_longest(*divided)) if batch)


def isolated(
    batch: Sequence[Request], complete: Callable[[Sequence[Request]], list[Completion]]
) -> Iterator[Completion | Failure]:
    """Answer a batch; if it fails, row by row, so that only the poison row is lost."""
    try:
        completed = complete(batch)
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
            yield from isolated([request], complete)


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
