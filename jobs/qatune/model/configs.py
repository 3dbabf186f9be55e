"""What a model's config.json says. The CPU stage that uses this has no torch."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from qatune.errors import MissingInputError
from qatune.model.tokenizing import LOCAL, one_line, quiet

UNBOUNDED = 2**31 - 1


def load_config(folder: Path) -> Any:
    """Read a model's config.json. Raises MissingInputError."""
    quiet()
    if not (folder / "config.json").is_file():
        raise MissingInputError(f"{folder}: not a model: there is no config.json")
    try:
        return AutoConfig.from_pretrained(folder, **LOCAL)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingInputError(f"{folder}: unusable config.json: {one_line(error)}") from error


def positions(model_config: Any) -> int:
    """Context length in tokens; UNBOUNDED for a model without position limit."""
    text = model_config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or UNBOUNDED)


def check_special_tokens(tokenizer: Any, model_config: Any, folder: Path) -> None:
    """Raise MissingInputError where EOS or the padding lies outside the model's vocabulary."""
    words = model_config.get_text_config().vocab_size
    for name in ("eos", "pad"):
        token, number = getattr(tokenizer, f"{name}_token"), getattr(tokenizer, f"{name}_token_id")
        if number >= words:
            raise MissingInputError(
                f"{folder}: {name}_token {token!r} is token {number}, outside the model's "
                f"vocabulary of {words}; set {name}_token in its tokenizer_config.json to one of "
                "the model's"
            )
