"""Base models and tokenizers from a local folder, quantized if the recipe says so."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from qatune import config
from qatune.errors import BadRecipeError, MissingInputError
from qatune.model import devices
from qatune.model.configs import check_special_tokens, load_config, positions
from qatune.model.tokenizing import LOCAL, load_tokenizer, one_line, quiet

_NF4_BLOCK = 64  # weights that share a quantization constant, in bitsandbytes
_SHARE_FOR_WEIGHTS = 0.5  # of the memory that is free; the rest is for training
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


@dataclass(frozen=True)
class LoadedModel:
    model: Any
    """transformers' CausalLM in eval mode, quantized if asked, on its device."""
    tokenizer: Any
    """Fast tokenizer with a pad token (EOS where it has none)."""
    device: str
    """`cpu` or `cuda`."""
    device_name: str
    dtype: str
    """float32, bfloat16 or float16: what is computed in."""
    weights: str
    """What weights that are not quantized are held in: in training on a CPU float32."""
    positions: int
    """The model's context length in tokens."""


def prepare_process() -> None:
    """Set what holds for a whole process; call it before torch's threads start.

    Numbers below the smallest normal one become zero: arithmetic with them made a training step
    on a CPU 30 times slower, and threads take the setting over only as they start.
    """
    torch.set_flush_denormal(True)
    quiet()


def resolve_dtype(asked: config.Dtype, note: Callable[[str], None]) -> str:
    """Turn the recipe's dtype into the one to compute in on this device."""
    native = devices.native_dtype()
    if asked == "auto":
        return native
    if asked == "float16" and devices.device() == "cpu":
        note(f"model.dtype float16 needs a GPU: {native} is used instead")
        return native
    return asked


def load_model(
    folder: Path,
    spec: config.Model,
    note: Callable[[str], None],
    for_training: bool = False,
    place: str | None = None,
) -> LoadedModel:
    """Load model and tokenizer of a folder; the weights to `place`, or where is computed.

    Raises MissingInputError for missing or corrupt files, BadRecipeError for a
    quantization of weights that are quantized already.
    """
    prepare_process()
    model_config, tokenizer = load_config(folder), load_tokenizer(folder)
    check_special_tokens(tokenizer, model_config, folder)
    check_quantization(spec, model_config)
    dtype = resolve_dtype(spec.dtype, note)
    # On a CPU autocast over float32 weights trains faster than bfloat16 weights do.
    in_float32 = for_training and devices.device() == "cpu" and spec.quantization == "none"
    weights = "float32" if in_float32 else dtype
    devices.free_memory()
    model = _load_weights(folder, spec, weights, place or devices.device())
    if for_training and devices.device() == "cpu" and spec.quantization == "nf4":
        _dequantize_once(model, note)
    _limit_repacking(model, for_training=for_training)
    # Otherwise generate() warns of sampling settings of the folder that a recipe does not use.
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        device=devices.device(),
        device_name=devices.device_name(),
        dtype=dtype,
        weights=weights,
        positions=positions(model_config),
    )


def check_quantization(spec: config.Model, model_config: Any) -> None:
    """Raise BadRecipeError for a quantization that cannot work, before weights are read."""
    if getattr(model_config, "quantization_config", None) and spec.quantization != "none":
        raise BadRecipeError(
            f"recipe.model.quantization: {spec.source} is quantized already; set it to none"
        )


def _load_weights(folder: Path, spec: config.Model, dtype: str, place: str) -> Any:
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise MissingInputError(f"{folder}: no weights: neither *.safetensors nor *.bin is there")
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            device_map={"": place},
            quantization_config=_quantization(spec, dtype),
            output_loading_info=True,
            **LOCAL,
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if "ignore_mismatched_sizes" in str(error):
            raise MissingInputError(
                f"{folder}: config.json and the weights are of two models: their shapes differ"
            ) from error
        raise MissingInputError(f"{folder}: weights cannot be loaded: {one_line(error)}") from error
    if found["missing_keys"]:
        # transformers would go on with random numbers in their place.
        name, count = min(found["missing_keys"]), len(found["missing_keys"])
        raise MissingInputError(f"{folder}: incomplete: {count} weights are missing, as {name}")
    return model


def _quantization(spec: config.Model, dtype: str) -> BitsAndBytesConfig | None:
    if spec.quantization == "none":
        return None
    if spec.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=spec.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def _dequantize_once(model: Any, note: Callable[[str], None]) -> None:
    """Hold 4-bit weights as the numbers they stand for, where memory allows.

    A CPU has no 4-bit arithmetic: bitsandbytes dequantizes them at each forward and backward.
    """
    packed = [layer for layer in model.modules() if hasattr(layer, "support_avx512bf16_for_cpu")]
    needed = sum(4 * layer.in_features * layer.out_features for layer in packed)
    if needed < devices.available_memory_bytes() * _SHARE_FOR_WEIGHTS:
        note("nf4 weights are dequantized once, as this is a CPU: the same numbers, more memory")
        model.dequantize()


def _limit_repacking(model: Any, *, for_training: bool) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference where that breaks something.

    On AVX512-BF16 CPUs it does so at the first forward without gradients (the held-out loss),
    and no gradient flows through the repacked weights afterwards. Rows that are not a multiple
    of its block it cannot repack at all.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            whole_blocks = module.in_features % _NF4_BLOCK == 0
            if for_training or not whole_blocks:
                module.support_avx512bf16_for_cpu = False
