"""The keys and values of the rows at work: each in a slot of its own, from column 0 on.

Rows of the base fill the slots below the middle, downwards; rows of the adapter those from the
middle on, upwards. So the rows at work are one stretch of memory, whichever come and go, with the
adapter's at its end: one forward serves both.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_GROWTH = 64
"""Columns added at least when rows outgrow the memory: to grow means to copy all of it."""


class SlotCache(Cache):  # type: ignore[misc] # untyped library
    """What a model's layers know of up to `each` rows of the base, and as many of the adapter."""

    def __init__(self, layers: int, each: int, device: str) -> None:
        self.each, self.base, self.adapter = each, 0, 0
        self.lengths = [0] * (2 * each)
        """Tokens that each slot holds."""
        self._device = device
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])
        self.prepare()

    @property
    def active(self) -> slice:
        """The slots that are taken. The first `base` of them are the base's."""
        return slice(self.each - self.base, self.each + self.adapter)

    def take(self, prefilled: Cache, row: int, length: int, *, adapter: bool) -> int:
        """Put `length` tokens of one row of another cache into a free slot; return its number."""
        if adapter:
            slot = self.each + self.adapter
            self.adapter += 1
        else:
            self.base += 1
            slot = self.each - self.base
        self.lengths[slot] = length
        for ours, theirs in zip(self.layers, prefilled.layers, strict=True):
            ours.put(slot, theirs.keys[row, :, :length], theirs.values[row, :, :length])
        return slot

    def release(self, slot: int) -> int:
        """Free a slot; return the outermost one of its side, whose row has moved there."""
        if slot >= self.each:
            self.adapter -= 1
            outermost = self.each + self.adapter
        else:
            outermost = self.each - self.base
            self.base -= 1
        if outermost != slot:
            self.lengths[slot] = self.lengths[outermost]
            for layer in self.layers:
                layer.put(slot, *(states[outermost, :, : self.lengths[slot]] for states in layer))
        return outermost

    def prepare(self) -> Tensor:
        """Say where the next token of each active row goes; return these columns, (rows,)."""
        lengths = self.lengths[self.active]
        self.width = max(lengths, default=0) + 1
        self.columns = torch.tensor(lengths, dtype=torch.long, device=self._device)
        self.rows = torch.arange(self.active.start, self.active.stop, device=self._device)
        return self.columns

    def mask(self) -> Tensor:
        """Return which columns each active row may look at: bool, (rows, 1, 1, width)."""
        seen = torch.arange(self.width, device=self._device) <= self.columns[:, None]
        return seen[:, None, None, :]

    def advance(self) -> None:
        """Count the token that each active row has got."""
        for slot in range(self.active.start, self.active.stop):
            self.lengths[slot] += 1


class _SlotLayer(DynamicLayer):  # type: ignore[misc] # untyped library
    """One layer's share: keys and values, (slots, heads, columns, head width)."""

    keys: Tensor
    values: Tensor
    is_initialized: bool

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def __iter__(self) -> Any:
        return iter((self.keys, self.values))

    def put(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Write states, (heads, tokens, head width), to the beginning of a slot."""
        self._reserve(keys, values, keys.shape[1])
        self.keys[slot, :, : keys.shape[1]] = keys
        self.values[slot, :, : values.shape[1]] = values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add a token to each active row; return what these hold, up to the longest one's end."""
        cache = self._cache
        self._reserve(keys[0], values[0], cache.width)
        self.keys[cache.rows, :, cache.columns] = keys[:, :, 0]
        self.values[cache.rows, :, cache.columns] = values[:, :, 0]
        return self.keys[cache.active, :, : cache.width], self.values[
            cache.active, :, : cache.width
        ]

    def _reserve(self, keys: Tensor, values: Tensor, width: int) -> None:
        """Make room for `width` columns. States of one row, (heads, …, head width), give shapes."""
        held = self.keys.shape[2] if self.is_initialized else 0
        if width <= held:
            return
        room = width + max(_GROWTH, width // 4)
        old, slots = (self.keys, self.values), len(self._cache.lengths)
        self.keys, self.values = (
            like.new_zeros(slots, like.shape[0], room, like.shape[-1]) for like in (keys, values)
        )
        if self.is_initialized:
            self.keys[:, :, :held], self.values[:, :, :held] = old
        self.is_initialized = True
