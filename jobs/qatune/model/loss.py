"""The loss over the tokens that are learned, without the logits of all the others."""

import types
from typing import Any

import torch
from torch import Tensor

from qatune.model.scoring import CHUNK_POSITIONS, logits


def return_answer_nll(causal_lm: Any) -> None:
    """Make a causal model's forward return {nll: the supervised tokens' summed loss}."""
    causal_lm.forward = types.MethodType(_answer_nll, causal_lm)


def _answer_nll(self: Any, labels: Tensor, predicting: Tensor, **inputs: Any) -> dict[str, Tensor]:
    given = {name: value for name, value in inputs.items() if value is not None}
    hidden = self.base_model(**given, use_cache=False).last_hidden_state.flatten(0, 1)
    trained = [each for each in self.get_output_embeddings().parameters() if each.requires_grad]
    return {"nll": _ChunkedNll.apply(hidden[predicting], labels, self, *trained)}


def _nll_and_slope(scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss and its gradient by `scores`, (tokens, words): softmax - one-hot.

    The gradient takes the place of the log-probabilities: autograd would fill two such matrices.
    """
    logs = torch.log_softmax(scores, dim=-1)
    rows = torch.arange(len(wanted), device=wanted.device)
    nll = -logs[rows, wanted].sum()
    slope = logs.exp_()
    slope[rows, wanted] -= 1
    return nll, slope


class _ChunkedNll(torch.autograd.Function):  # type: ignore[misc] # untyped library
    """Takes the gradient of each chunk at once, while its logits are there.

    So they are neither kept nor computed a second time (as in Liger's fused linear cross entropy).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, wanted: Tensor, causal_lm: Any, *trained: Tensor
    ) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        grads = [torch.empty_like(hidden), *map(torch.zeros_like, trained)]
        chunks = (each.split(CHUNK_POSITIONS) for each in (hidden, wanted, grads[0]))
        for chunk, targets, grad in zip(*chunks, strict=True):
            with torch.enable_grad():
                own = chunk.detach().requires_grad_()
                scores = logits(causal_lm, own)
            nll, slope = _nll_and_slope(scores.detach(), targets)
            of_chunk, *of_trained = torch.autograd.grad(scores, (own, *trained), slope)
            grad.copy_(of_chunk)
            for whole, part in zip(grads[1:], of_trained, strict=True):
                whole.add_(part)
            total += nll
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, *trained = (grad * outer[0] for grad in ctx.saved_tensors)
        return hidden, None, None, *trained
