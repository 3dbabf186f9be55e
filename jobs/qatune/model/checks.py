"""What can be known to fail before any weights are read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from qatune.errors import BadDataError, BadRecipeError
from qatune.model.configs import UNBOUNDED, positions


def skeleton(model_config: Any) -> Any:
    """Build the model without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config, trust_remote_code=False)


def check_target_modules(wanted: str | Sequence[str], model: Any) -> None:
    """Raise BadRecipeError for a name that no layer of the model has."""
    if isinstance(wanted, str):  # all-linear
        return
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    for target in wanted:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            existing = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))
            raise BadRecipeError(
                f"recipe.train.lora.target_modules: this model has no layer {target!r} to adapt; "
                f"it has {existing}"
            )


def check_lengths(lengths: np.ndarray, model_config: Any) -> None:
    """Raise BadDataError for rows that the model cannot hold."""
    limit = positions(model_config)
    count = int((lengths > limit).sum())
    if count:
        raise BadDataError(
            f"{count} rows are longer than the model's {limit} positions, the longest has "
            f"{int(lengths.max())} tokens; set data.max_length to at most {limit} "
            "with data.length_unit tokens"
        )


def check_supervised(lengths: np.ndarray, answer_starts: np.ndarray, limit: int) -> None:
    """Raise BadDataError for rows of whose answer nothing is left within `limit` tokens."""
    count = int((np.minimum(lengths, limit) <= answer_starts).sum())
    if count:
        raise BadDataError(
            f"{count} rows have no token to learn within train.max_length {limit}: their question "
            "fills it; raise train.max_length, or lower data.max_length"
        )


def check_vocabulary(largest_id: int, model_config: Any) -> None:
    """Raise BadDataError for token ids that the model has no embedding for."""
    words = model_config.get_text_config().vocab_size
    if largest_id >= words:
        raise BadDataError(
            f"token id {largest_id} lies outside the model's vocabulary of {words}: "
            "the tokenizer in its folder belongs to another model"
        )


def sequence_limit(max_length: int, model_config: Any) -> int:
    """Tokens of a row that training can use: the recipe's limit, or the model's if smaller."""
    return min(max_length, positions(model_config), UNBOUNDED)
