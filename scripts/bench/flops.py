"""What training a LoRA adapter must compute, and what the machine could.

    python scripts/bench/flops.py MODEL [--tokens 1024] [--dtype float32]

prints the peak of matrix multiplication with the shapes of MODEL's layers, as one JSON line.

The base is frozen: its weights are multiplied forward (2 operations a parameter and token) and for
the gradient of the activations (2 more), not for gradients of themselves. So a token costs
4 x parameters of the layers, a supervised one 4 x vocabulary x width in the head besides, and a row
of n tokens 6 x layers x width x n^2 in causal attention (scores and values, half of the square,
forward and twice that backward). The adapter itself and what is computed again are not counted.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

REPEATS = 15


def skeleton(folder: str) -> Any:
    """Return the model without its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def training_flops(model: Any, lengths: Sequence[int], supervised: int) -> float:
    """Return the floating-point operations of one pass over rows of these lengths, in tokens."""
    sizes = model.config
    layers = sum(rows * columns for rows, columns in layer_shapes(model))
    head = sizes.vocab_size * sizes.hidden_size
    width = sizes.num_attention_heads * _head_width(sizes)
    squares = sum(length**2 for length in lengths)
    attention = 6 * sizes.num_hidden_layers * width * squares
    return float(4 * layers * sum(lengths) + 4 * head * supervised + attention)


def _head_width(sizes: Any) -> int:
    return getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads


def layer_shapes(model: Any) -> list[tuple[int, int]]:
    """Return the shapes of the weights that each token is multiplied with, without the head."""
    apart = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return [
        (weight.shape[0], weight.shape[1])
        for name, weight in model.named_parameters()
        if weight.dim() == 2 and id(weight) not in apart and "wpe" not in name  # noqa: PLR2004
    ]


def matmul_peak(shapes: Sequence[tuple[int, int]], tokens: int, dtype: torch.dtype) -> float:
    """Return GFLOP/s over one layer after the other's product with a batch of so many tokens."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = {"device": device, "dtype": dtype}
    pairs = [
        (torch.rand(tokens, columns, **place), torch.rand(columns, rows, **place))
        for rows, columns in set(shapes)
    ]
    work = sum(2 * tokens * rows * columns for rows, columns in set(shapes))
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for left, right in pairs:
            left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return work / min(taken) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=1024, help="in a batch, without padding")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    asked = parser.parse_args()
    dtype = getattr(torch, asked.dtype)
    peak = matmul_peak(layer_shapes(skeleton(asked.model)), asked.tokens, dtype)
    print(json.dumps({"gflops": peak}))


if __name__ == "__main__":
    main()
