"""LoRA adapters: made for a base model, saved with its name, attached to no other."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import set_seed
from transformers.pytorch_utils import Conv1D

from qatune import config
from qatune.errors import MissingInputError
from qatune.importing import absent
from qatune.store.objects import ObjectRef

WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_OURS = "qatune.json"


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs to, and the precision it was held in."""

    source: str
    revision: str | None
    sha256: str
    """Of the hashes of its config and weights: two folders of one model agree."""
    quantization: str
    dtype: str

    @property
    def precision(self) -> str:
        return self.dtype if self.quantization == "none" else self.quantization


def base_digest(files: Sequence[ObjectRef]) -> str:
    """Identify a model by its config and weights, wherever its folder lies."""
    names = {ref.key.rsplit("/", 1)[-1]: ref.sha256 for ref in files}
    # Where both are there, the .bin files are copies that are not loaded.
    weights = ".safetensors" if any(name.endswith(".safetensors") for name in names) else ".bin"
    kept = {
        name: digest
        for name, digest in names.items()
        if name == "config.json" or name.endswith(weights)
    }
    return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def create(model: Any, lora: config.Lora, seed: int) -> PeftModel:
    """Put a fresh adapter, drawn from `seed`, on a base model."""
    wanted = lora.target_modules
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        bias=lora.bias,
        target_modules=wanted if isinstance(wanted, str) else list(wanted),
        fan_in_fan_out=_has_conv1d(model),
    )
    set_seed(seed)
    with _bitsandbytes_if_used():
        return get_peft_model(model, settings)


@contextmanager
def _bitsandbytes_if_used() -> Iterator[None]:
    """Keep peft from importing bitsandbytes for a base without any of its layers.

    It asks whether that is installed, and remembers the answer. Loading a quantized base has
    imported it.
    """
    answers = (is_bnb_available, is_bnb_4bit_available)
    try:
        with absent("bitsandbytes"):
            for answer in answers:
                answer.cache_clear()
            yield
    finally:
        for answer in answers:
            answer.cache_clear()


def in_float32(model: PeftModel) -> PeftModel:
    """Hold what is trained in float32: smaller types lose the small steps late in training."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def is_finite(model: PeftModel) -> bool:
    """Tell whether all that is trained are numbers."""
    sums = [parameter.detach().sum() for parameter in model.parameters() if parameter.requires_grad]
    return bool(torch.stack(sums).isfinite().all())


def changes_something(model: PeftModel) -> bool:
    """Tell whether the adapter adds anything: its second factor begins as zeros."""
    return any(
        bool(parameter.detach().any())
        for name, parameter in model.named_parameters()
        if "lora_B" in name
    )


def save_weights(model: PeftModel, folder: Path) -> None:
    """Write the adapter's weights; equal weights give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without the explicit False, peft asks the hub whether the base's vocabulary was resized.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_weights(model: PeftModel, folder: Path) -> None:
    """Read what `save_weights` wrote into an adapter of the same shape."""
    set_peft_model_state_dict(model, load_file(folder / WEIGHTS))


def save(model: PeftModel, tokenizer: Any, base: Base, card: str, folder: Path) -> list[Path]:
    """Write all that makes the adapter usable, by qatune and by peft alone; return the files."""
    save_weights(model, folder)
    settings = model.peft_config["default"].to_dict()
    settings |= {"base_model_name_or_path": base.source, "revision": base.revision}
    settings["inference_mode"] = True
    _write_json(folder / _CONFIG, _plain(settings))
    _write_json(folder / _OURS, {"base": asdict(base)})
    (folder / "README.md").write_text(card, encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def attach(model: Any, folder: Path, base: Base, note: Callable[[str], None]) -> PeftModel:
    """Put a saved adapter on the base it was made for, ready to answer.

    Raises MissingInputError for an adapter of another base, or a damaged one; notes where the
    base is held in another precision than in training.
    """
    _check_base(folder, base, note)
    try:
        settings = LoraConfig.from_pretrained(str(folder))
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise MissingInputError(f"{folder}: not a LoRA adapter: {_line(error)}") from error
    if settings.bias != "none":
        raise MissingInputError(
            f"{folder}: this adapter has biases of its own (bias: {settings.bias}), which would "
            "change the base's answers, too; train one with bias: none"
        )
    settings.inference_mode = True
    settings.fan_in_fan_out = _has_conv1d(model)  # quantization turns Conv1D layers into Linear
    try:
        with _bitsandbytes_if_used():
            adapted = PeftModel(model, settings)
        result = set_peft_model_state_dict(adapted, state)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _other_base(folder, base, _line(error)) from error
    missing = set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) - set(state)
    if result.unexpected_keys or missing:
        odd = min([*result.unexpected_keys, *missing])
        raise _other_base(folder, base, f"their layers differ, as in {odd}")
    return adapted.eval()


def _check_base(folder: Path, base: Base, note: Callable[[str], None]) -> None:
    """Compare with what the adapter says it was made for; one of another tool says nothing."""
    path = folder / _OURS
    if not path.is_file():
        return
    try:
        made_for = Base(**json.loads(path.read_bytes())["base"])
    except (ValueError, KeyError, TypeError):
        raise MissingInputError(f"{path}: damaged: it should name the adapter's base") from None
    if made_for.sha256 != base.sha256:
        raise _other_base(folder, base, f"it was made for {made_for.source}")
    if made_for.precision != base.precision:
        note(
            f"the adapter was trained on {made_for.precision} weights and is used on "
            f"{base.precision} ones: answers differ a little from those it was trained to give"
        )


def _other_base(folder: Path, base: Base, reason: str) -> MissingInputError:
    return MissingInputError(
        f"{folder}: this adapter does not belong to {base.source}: {reason}; "
        "set model.source to its own base"
    )


def _has_conv1d(model: Any) -> bool:
    """Tell whether the layers hold their weights transposed, as GPT-2's do until quantized."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Make peft's settings JSON; sets have no order of their own, equal ones give equal bytes."""
    return {
        name: sorted(value) if isinstance(value, set | frozenset) else value
        for name, value in settings.items()
    }


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    text = json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False, default=str)
    path.write_text(text + "\n", encoding="utf-8")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """Return trainable and all parameters; packed ones count in full."""
    trainable: int
    total: int
    trainable, total = model.get_nb_trainable_parameters()
    return trainable, total
