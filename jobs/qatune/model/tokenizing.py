"""Tokenizers, and texts to ids: many rows at a time, without Python work per token.

The CPU stage that uses this has no torch.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from qatune.errors import MissingInputError

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
LOCAL = {"local_files_only": True, "trust_remote_code": False}


def quiet() -> None:
    """Keep the libraries' bars and advice off the terminal; their errors still raise."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # peft asks transformers for a property by its old name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    # A batch to each thread of ours keeps the cores busier than each batch in threads of theirs.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def load_tokenizer(folder: Path) -> Any:
    """Load a fast tokenizer that can pad. Raises MissingInputError."""
    quiet()
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        # transformers would make one up that has no words.
        raise MissingInputError(f"{folder}: no tokenizer: none of {', '.join(_VOCABULARIES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, **LOCAL)
    except Exception as error:  # the Rust tokenizers raise bare Exception for a corrupt file
        raise MissingInputError(f"{folder}: no usable tokenizer: {one_line(error)}") from error
    if not tokenizer.is_fast:
        raise MissingInputError(f"{folder}: no fast tokenizer (tokenizer.json) for this model")
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise MissingInputError(f"{folder}: its tokenizer knows no words: it makes nothing of text")
    if tokenizer.eos_token_id is None:
        raise MissingInputError(
            f"{folder}: the tokenizer has no EOS token, so answers could never end; "
            "set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def one_line(error: Exception) -> str:
    """Return a library's message as part of a line of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."  # noqa: PLR2004


@dataclass(frozen=True)
class Encoded:
    """A batch of rows as the Rust tokenizer leaves it; ids are only taken out of rows kept."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    prompt_lengths: Any
    lengths: Any
    """Ids per row, EOS included: int32."""


class RowTokenizer:
    """Encodes prompt and completion apart, so that a prompt's ids begin the row's always."""

    def __init__(self, tokenizer: Any) -> None:
        self.eos = int(tokenizer.eos_token_id)
        self._rust = tokenizer.backend_tokenizer
        self._rust.no_truncation()
        self._rust.no_padding()
        # Some tokenizers end every text with EOS; a prompt must not.
        self._dropped = int(self._rust.encode("a").ids[-1:] == [self.eos])
        self._longest = max(len(token.encode()) for token in tokenizer.get_vocab())

    def fewest_tokens(self, text: str) -> int:
        """Return a bound that no encoding of `text` goes below: a token spells so many bytes."""
        return len(text.encode()) // self._longest

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> Encoded:
        """Encode a batch, on one core and outside of the GIL."""
        heads = self._rust.encode_batch_fast(prompts, add_special_tokens=True)
        tails = self._rust.encode_batch_fast(completions, add_special_tokens=False)
        starts = np.fromiter(map(len, heads), np.int32, len(heads)) - np.int32(self._dropped)
        ends = np.fromiter(map(len, tails), np.int32, len(tails))
        return Encoded(heads, tails, starts, starts + ends + np.int32(1))

    def ids(self, encoded: Encoded, kept: Any) -> pa.ListArray:
        """Return the ids of the rows whose indexes are in `kept`: prompt, completion, EOS."""
        parts = (part for row in kept for part in self._parts(encoded, int(row)))
        lengths = encoded.lengths[kept]
        values = np.fromiter(chain.from_iterable(parts), np.int32, int(lengths.sum()))
        offsets = np.zeros(len(kept) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    def _parts(self, encoded: Encoded, row: int) -> tuple[Sequence[int], ...]:
        prompt = encoded.prompts[row].ids
        if self._dropped:
            prompt = prompt[:-1]
        return prompt, encoded.completions[row].ids, (self.eos,)
