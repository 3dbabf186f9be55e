"""Texts to ids, many rows at a time, without Python work per token."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from qatune.errors import BadRecipeError


@dataclass(frozen=True)
class Encoded:
    """A batch of rows as the Rust tokenizer leaves it; ids are only taken out of rows kept."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    prompt_lengths: Any
    lengths: Any
    """Ids per row, EOS included: int32."""


class RowTokenizer:
    """Encodes prompt and completion apart, so that a prompt's ids begin the row's always.

    Raises BadRecipeError for a tokenizer without EOS: an answer could not end.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise BadRecipeError(
                f"recipe.model.source: the tokenizer of {tokenizer.name_or_path} has no EOS token, "
                "so answers could never end; choose another model, or set its eos_token"
            )
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
        """Encode a batch. Runs outside of the GIL, on all cores within `all_cores`."""
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


@contextmanager
def all_cores() -> Iterator[None]:
    """Let the Rust tokenizer use all cores inside, whatever holds outside."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
