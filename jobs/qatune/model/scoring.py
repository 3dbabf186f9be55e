"""How likely a model finds the answers it should give."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = tuple[Sequence[int], int]
"""Token ids, and the index of the first answer token."""

# Positions whose logits exist at once: 512 x 150,000 words x 4 bytes are 300 MB.
CHUNK_POSITIONS = 512
IGNORED = -100
"""The label of a token that is not to be predicted."""


@dataclass(frozen=True)
class Scored:
    nll: float
    """Negative log-likelihood of the answer in nats, summed over its tokens."""
    tokens: int


def mean(scored: Sequence[Scored]) -> float | None:
    """Loss per token over all rows, each token weighing the same; None without tokens."""
    tokens = sum(row.tokens for row in scored)
    return sum(row.nll for row in scored) / tokens if tokens else None


def score(
    model: Any,
    rows: Sequence[Row],
    *,
    batch_size: int,
    pad_id: int,
    done: Callable[[int], None] = lambda _: None,
    passes: int = 0,
) -> list[Scored]:
    """Score each row's answer, in the given order; `done` hears of rows as they are scored.

    At least `passes` forward passes are made, as other processes do that hold parts of the model.
    In float32 a row's result does not depend on its batch. The model's mode is left as it was.
    """
    was_training = model.training
    model.eval()
    try:
        results: dict[int, Scored] = {}
        with torch.no_grad():
            batches = list(_batches(rows, batch_size))
            for batch in batches:
                scored = _score_batch(model, [rows[index] for index in batch], pad_id)
                results.update(zip(batch, scored, strict=True))
                done(len(batch))
            for _ in range(passes - len(batches)):
                _score_batch(model, [([pad_id], 1)], pad_id)
        return [results[index] for index in range(len(rows))]
    finally:
        model.train(was_training)


def _batches(rows: Sequence[Row], size: int) -> Iterator[list[int]]:
    """Longest first: the largest batch fails at the start, if at all."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _score_batch(model: Any, rows: Sequence[Row], pad_id: int) -> list[Scored]:
    device = model.get_output_embeddings().weight.device
    ids, mask, targets = (tensor.to(device) for tensor in _padded(rows, pad_id))
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal_lm.base_model(
        input_ids=ids, attention_mask=mask, use_cache=False
    ).last_hidden_state
    supervised = targets != IGNORED
    losses = torch.zeros(targets.shape, dtype=torch.float64, device=device)
    losses[supervised] = _token_losses(causal_lm, hidden[supervised], targets[supervised])
    counts = supervised.sum(dim=1).tolist()
    return [Scored(nll, count) for nll, count in zip(losses.sum(1).tolist(), counts, strict=True)]


def _padded(rows: Sequence[Row], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad on the right; return ids, attention mask, and the id to predict at each position."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    padded = torch.full(shape, pad_id, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    targets = torch.full(shape, IGNORED, dtype=torch.long)
    for index, (ids, answer_start) in enumerate(rows):
        row = torch.tensor(ids, dtype=torch.long)
        padded[index, : len(row)] = row
        mask[index, : len(row)] = 1
        first = max(answer_start, 1)  # nothing predicts the first token
        if first < len(row):
            targets[index, first - 1 : len(row) - 1] = row[first:]
    return padded, mask, targets


def _token_losses(causal_lm: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """NLL of each target. `hidden` is (positions, width); logits exist for a chunk only."""
    losses = [
        torch.nn.functional.cross_entropy(logits(causal_lm, chunk), wanted, reduction="none")
        for chunk, wanted in zip(
            hidden.split(CHUNK_POSITIONS), targets.split(CHUNK_POSITIONS), strict=True
        )
    ]
    return torch.cat(losses).double()


def logits(causal_lm: Any, hidden: Tensor) -> Tensor:
    """Apply the output head with what some families do after it, in float32."""
    logits: Tensor = causal_lm.get_output_embeddings()(hidden).float()
    text = causal_lm.config.get_text_config()
    if scale := getattr(text, "logit_scale", None):  # Cohere
        logits = logits * scale
    if divisor := getattr(text, "logits_scaling", None):  # Granite
        logits = logits / divisor
    if cap := getattr(text, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits
