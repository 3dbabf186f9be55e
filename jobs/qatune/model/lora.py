"""The forward and backward of a LoRA layer in as few passes over memory as they need.

peft composes them of general operations, so that autograd keeps and goes through each intermediate
result. On a CPU these passes took as long as half of the matrix products.
"""

import types
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qatune.model.dropout import draw


def fuse(model: nn.Module) -> None:
    """Give the LoRA layers of a model on a CPU, which has one adapter, a forward of their own.

    Layers over quantized weights, and those of LoRA's variants, keep peft's.
    """
    for layer in model.modules():
        plain = type(layer) is Linear and type(layer.base_layer) in {nn.Linear, Conv1D}
        if plain and not layer.lora_variant:
            layer.forward = types.MethodType(_forward, layer)


def _forward(self: Any, hidden: Tensor) -> Tensor:
    (name,) = self.active_adapters
    base, dropout = self.base_layer, self.lora_dropout[name]
    weight = base.weight.T if isinstance(base, Conv1D) else base.weight
    share = dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0
    adapter = (self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])
    found: Tensor = _Lora.apply(hidden, weight, base.bias, *adapter, share)
    return found


class _Lora(torch.autograd.Function):  # type: ignore[misc] # untyped library
    """x W' + b + s (m x) A' B' for frozen W (out, in) and b, and dropout's mask m."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd wants each tensor by itself
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        share: float,
    ) -> Tensor:
        kind = hidden.device.type
        autocast = torch.is_autocast_enabled(kind)
        ctx.dtype = torch.get_autocast_dtype(kind) if autocast else hidden.dtype
        ctx.given, ctx.scale, kept = hidden.dtype, scale, None
        rows = hidden.reshape(-1, hidden.shape[-1]).to(ctx.dtype)
        if share:
            kept, factor = draw(rows.shape, share)
            ctx.scale *= factor
        with torch.autocast(kind, enabled=False):
            found = nn.functional.linear(rows, *_in(ctx.dtype, weight, bias))
            low = _masked(rows, kept) @ down.to(ctx.dtype).T
            found.addmm_(low, up.to(ctx.dtype).T, alpha=ctx.scale)
        ctx.save_for_backward(rows, kept, low, weight, down, up)
        return found.view(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, kept, low, *parameters = ctx.saved_tensors
        weight, down, up = _in(ctx.dtype, *parameters)
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        grad_low = grad @ up
        grad_up = (grad.T @ low).mul_(ctx.scale)
        grad_down = (grad_low.T @ _masked(rows, kept)).mul_(ctx.scale)
        grad_hidden = None
        if ctx.needs_input_grad[0]:
            grad_hidden = grad @ weight
            if kept is None:
                grad_hidden.addmm_(grad_low, down, alpha=ctx.scale)
            else:
                grad_hidden.add_((grad_low @ down).mul_(kept), alpha=ctx.scale)
            grad_hidden = grad_hidden.view(*grads[0].shape[:-1], -1).to(ctx.given)
        return (
            grad_hidden, None, None, grad_down.to(parameters[1].dtype),
            grad_up.to(parameters[2].dtype), None, None,
        )  # fmt: skip


def _in(dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if each is None else each.to(dtype) for each in tensors]


def _masked(rows: Tensor, kept: Tensor | None) -> Tensor:
    return rows if kept is None else rows * kept
