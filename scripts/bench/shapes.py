"""Models of random weights, in the exact shapes of ones that cannot be fetched everywhere.

Their answers are noise; what they cost is not. The tokenizer is another model's whose words are
fewer than theirs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
)


@dataclass(frozen=True)
class Shape:
    config: type[PretrainedConfig]
    sizes: dict[str, Any]
    """As in the config.json of the model."""
    targets: tuple[str, ...]
    """Layers that get an adapter."""


SHAPES = {
    "llama-3.2-1b": Shape(
        LlamaConfig,
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        },
        ("q_proj", "k_proj", "v_proj", "o_proj"),
    ),
    "gpt2-large": Shape(
        GPT2Config,
        {"vocab_size": 50257, "n_embd": 1280, "n_layer": 36, "n_head": 20, "n_positions": 1024},
        ("c_attn", "c_proj"),
    ),
}


def make(shape: Shape, tokenizer: Path, folder: Path) -> Path:
    """Write the model, in bfloat16, and the tokenizer of the other one; return the folder."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    torch.manual_seed(0)
    config = shape.config(**shape.sizes, **ends)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
