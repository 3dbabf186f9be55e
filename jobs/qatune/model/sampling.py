"""Choose the next token so that an answer depends on its row alone, never on its batch.

A sampled row takes the token with the largest (logit / temperature + Gumbel noise): exactly a
draw from the softmax. The noise is a pure function of (seed, row id, position), so neither the
rows beside it, nor a retry, nor a restart changes what a row draws.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from qatune.data.requests import Sampling


def gumbel(seed: int, row_id: str, position: int, size: int) -> Tensor:
    """Return the row's noise for its token number `position` (from 0): float64, (size,), on CPU."""
    stream = hashlib.sha256(f"{seed}\0{position}\0{row_id}".encode()).digest()[:8]
    generator = torch.Generator().manual_seed(int.from_bytes(stream, "little", signed=True))
    return -torch.log(-torch.log(torch.rand(size, generator=generator, dtype=torch.float64)))


def restrict(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set the tokens of (size,) that are out of the draw to -inf: top-k first, then top-p.

    top-p keeps the likeliest tokens up to and including the one that reaches the share.
    """
    if 0 < top_k < len(logits):
        least = torch.topk(logits, top_k).values[-1]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1:
        ordered, tokens = logits.sort(descending=True)
        shares = ordered.softmax(dim=-1)
        likelier = shares.cumsum(dim=-1) - shares
        logits = logits.index_fill(0, tokens[likelier >= top_p], -math.inf)
    return logits


def draw(logits: Tensor, row_id: str, sampling: Sampling, position: int) -> Tensor:
    """Return the token, a scalar tensor, that a row takes as its number `position` (from 0).

    `logits` are (vocabulary,); the temperature is above 0.
    """
    scaled = restrict(logits.double() / sampling.temperature, sampling.top_k, sampling.top_p)
    noise = gumbel(sampling.seed, row_id, position, len(logits)).to(logits.device)
    return torch.argmax(scaled + noise)


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Turns scores into ones whose argmax is each row's choice. Greedy rows are left alone."""

    def __init__(self, rows: Sequence[tuple[str, Sampling]], prompt_width: int) -> None:
        """`rows` are (id, sampling) in the batch's order; `prompt_width` counts padding, too."""
        self._rows = rows
        self._prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return (rows, vocabulary) scores for the next token of `input_ids`."""
        position = input_ids.shape[1] - self._prompt_width
        for index, (row_id, sampling) in enumerate(self._rows):
            if sampling.temperature > 0:
                chosen = draw(scores[index], row_id, sampling, position)
                # The largest stays the largest in float32, whatever rounding does to the others.
                scores[index] = torch.full_like(scores[index], -math.inf).index_fill(0, chosen, 0.0)
        return scores
