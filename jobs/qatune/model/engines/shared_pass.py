"""One forward pass for rows of the base and of the adapter: the base's weights are read once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import linear

_PLAIN = {"Linear", "Linear4bit", "Linear8bitLt"}
"""peft's LoRA layers whose forward is base(x) + B(A(x)) * scaling."""


def lora_layers(model: Any) -> list[Any]:
    """Return the layers that the adapter changes; none where there is no adapter."""
    return [module for module in model.modules() if hasattr(module, "lora_A")]


def odd_layer(layers: Sequence[Any]) -> str | None:
    """Name a kind of layer whose adapter is more than the product of two matrices."""
    for layer in layers:
        if type(layer).__name__ not in _PLAIN or layer.lora_variant or layer.merged:
            return type(layer).__name__
    return None


@contextmanager
def adapter_from(layers: Sequence[Any], row: int) -> Iterator[None]:
    """Inside, the adapter is added to a batch's rows from `row` on, and to no other."""
    for layer in layers:
        layer.forward = partial(_forward, layer, row)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, first: int, inputs: Tensor) -> Tensor:
    outputs: Tensor = layer.base_layer(inputs)
    adapted = inputs[first:]
    if len(adapted):
        for name in layer.active_adapters:
            down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
            change = linear(linear(adapted.to(down.dtype), down), up)
            outputs[first:].add_(change, alpha=layer.scaling[name])
    return outputs
