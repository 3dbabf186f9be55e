"""Dropout on a CPU: masks drawn from random bits, 16 to an element.

torch draws each element of a mask by a Bernoulli trial of its own, in one thread: a seventh of a
training step. A bit generator fills the same mask in a twentieth of that time.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

_LEVELS = 1 << 16


def draw(shape: Sequence[int], share: float) -> tuple[Tensor, float]:
    """Draw which elements are kept when a `share` of them is dropped, and the factor for these.

    Depends on torch's generator alone. The share is rounded to a multiple of 1/65536, and the
    factor is that of the rounded one.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    dropped = round(share * _LEVELS)
    if dropped == _LEVELS:
        return torch.zeros(*shape, dtype=torch.bool), 0.0
    count = math.prod(shape)
    words = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    return torch.from_numpy(words).view(*shape) >= dropped - _LEVELS // 2, _LEVELS / (
        _LEVELS - dropped
    )


class Dropout(nn.Dropout):  # type: ignore[misc] # untyped library
    """What nn.Dropout does, with masks of `draw`."""

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training or not self.p:
            return hidden
        kept, factor = draw(hidden.shape, self.p)
        return hidden * kept.to(hidden.dtype).mul_(factor)


def draw_faster(model: nn.Module) -> None:
    """Put `Dropout` in the place of torch's own, throughout a model on a CPU."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                module.register_module(name, Dropout(child.p).train(child.training))
