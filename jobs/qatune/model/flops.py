"""What training a LoRA adapter computes, and what a GPU could in that time.

The base is frozen: its weights are multiplied forward (2 operations a parameter and token) and for
the gradient of the activations (2 more), not for gradients of themselves. So a token costs
4 x parameters of the layers, a supervised one 4 x vocabulary x width in the head besides, and a row
of n tokens 6 x layers x width x n^2 in causal attention (scores and values, half of the square,
forward and twice that backward). The adapter itself and what is computed again are not counted.
"""

from dataclasses import astuple, dataclass
from typing import Any

_TERA = 10**12
DENSE_16_BIT = {
    "H200": 989 * _TERA,
    "H100 PCIe": 756 * _TERA,
    "H100 NVL": 835 * _TERA,
    "H100": 989 * _TERA,
    "A100": 312 * _TERA,
    "L40S": 362 * _TERA,
    "L4": 121 * _TERA,
    "A10G": 70 * _TERA,
    "A10": 125 * _TERA,
    "V100": 125 * _TERA,
    "T4": 65 * _TERA,
}
"""FLOP/s of dense 16-bit matrices, by NVIDIA's data sheets; the first that fits counts."""


@dataclass(frozen=True)
class Work:
    """What a training, or a part of one, went through, without padding."""

    tokens: int = 0
    supervised: int = 0
    squares: int = 0
    """Sum over rows of the square of their tokens."""

    def __add__(self, other: "Work") -> "Work":
        return Work(*(own + more for own, more in zip(astuple(self), astuple(other), strict=True)))


def device_peak(name: str) -> int | None:
    """Return the peak of the device of this name; None if it is not known."""
    words = f" {name.replace('-', ' ')} "
    found = (peak for part, peak in DENSE_16_BIT.items() if f" {part} " in words)
    return next(found, None)


def training_flops(model: Any, work: Work) -> int:
    """Return the floating-point operations of training through `work` once."""
    sizes = model.config.get_text_config()
    layers = sum(rows * columns for rows, columns in layer_shapes(model))
    head = sizes.vocab_size * sizes.hidden_size
    width = getattr(sizes, "num_attention_heads", 0) * _head_width(sizes)  # some have no attention
    attention = 6 * sizes.num_hidden_layers * width * work.squares
    return int(4 * layers * work.tokens + 4 * head * work.supervised + attention)


def _head_width(sizes: Any) -> int:
    heads = getattr(sizes, "num_attention_heads", 1)
    return int(getattr(sizes, "head_dim", None) or sizes.hidden_size // heads)


def layer_shapes(model: Any) -> list[tuple[int, int]]:
    """Return the shapes of the weights that each token is multiplied with, without the head."""
    apart = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return [
        (weight.shape[0], weight.shape[1])
        for name, weight in model.named_parameters()
        if weight.dim() == 2 and id(weight) not in apart and "wpe" not in name  # noqa: PLR2004
    ]
