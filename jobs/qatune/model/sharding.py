"""A model's frozen layers divided over the processes: for models that do not fit one device.

Each process holds a part of every layer and gets the rest of one (by FSDP2) while it computes it.
The adapter, the embeddings and the head are whole in all: the adapter's gradients are summed as
without division (`distributed.py`), so the result is the same.

A layer is computed by all at once or by none: whoever has less to compute has to do as the others
do, with rows that teach nothing.
"""

import warnings
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def divide_layers(model: Any, device: str, processes: int) -> None:
    """Divide the layers of a peft model that lies in the memory of the CPU; move it to `device`."""
    # GPT-2's last states are a view; nothing changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device, (processes,))
    decoder = model.get_base_model().base_model
    layers = _layers(model.get_base_model())
    divided = {
        id(each) for layer in layers for each in layer.parameters() if not each.requires_grad
    }
    whole = {each for each in model.parameters() if id(each) not in divided}
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(decoder, mesh=mesh, ignored_params=whole)


def _layers(causal_lm: Any) -> list[nn.Module]:
    names = set(causal_lm._no_split_modules)  # noqa: SLF001 - it has no public name
    return [module for module in causal_lm.modules() if type(module).__name__ in names]


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of the parameters that this process holds."""
    return sum(
        local.numel() * local.element_size()
        for local in (
            each.to_local() if isinstance(each, torch.distributed.tensor.DTensor) else each
            for each in model.parameters()
        )
    )
