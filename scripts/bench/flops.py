"""Measure the peak of matrix multiplication with the shapes of a model's layers.

    python scripts/bench/flops.py MODEL [--tokens 1024] [--dtype float32]

Prints it as one JSON line. What a training computes is counted by qatune.model.flops.
"""

import argparse
import json
import time
from collections.abc import Sequence

import torch
from transformers import AutoConfig

from qatune.model.checks import skeleton
from qatune.model.flops import layer_shapes

REPEATS = 15


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
    shapes = layer_shapes(skeleton(AutoConfig.from_pretrained(asked.model)))
    print(json.dumps({"gflops": matmul_peak(shapes, asked.tokens, dtype)}))


if __name__ == "__main__":
    main()
