"""Base and adapter answer one question together, word by word, for a person to watch."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from qatune.data.requests import Fault
from qatune.model.engines import protocol
from qatune.model.engines.protocol import Request, until
from qatune.model.engines.static import generate_ids
from qatune.model.loading import LoadedModel

Show = Callable[[Sequence[list[int]]], None]
"""Takes what there is so far: ids of the base's answer, and of the adapter's if it has one."""


def answer_both(loaded: LoadedModel, request: Request, show: Show) -> list[list[int]] | Fault:
    """Return the ids of the base's answer, and of the adapter's, from one batch of both.

    A prompt that cannot be answered is a Fault.
    """
    words = protocol.vocabulary(loaded.model)
    if fault := protocol.check(request, loaded.positions, words):
        return fault
    protocol.forget_folder_settings(loaded.model)
    budget = min(request.max_new_tokens, loaded.positions - len(request.prompt_ids))
    more: dict[str, Any] = {}
    rows = 1
    if protocol.has_adapter(loaded.model):
        rows, more = 2, {"adapter_names": ["__base__", "default"]}
    streamer = _Streamer(rows, int(loaded.tokenizer.eos_token_id), show)
    return generate_ids(loaded, [request] * rows, [budget] * rows, streamer=streamer, **more)


class _Streamer:
    """What generate() hands each step's tokens to; the prompts come first."""

    def __init__(self, rows: int, eos: int, show: Show) -> None:
        self._ids: list[list[int]] = [[] for _ in range(rows)]
        self._eos, self._show = eos, show
        self._prompts_are_next = True

    def put(self, tokens: Tensor) -> None:
        if self._prompts_are_next:
            self._prompts_are_next = False
            return
        for ids, token in zip(self._ids, tokens.reshape(-1).tolist(), strict=True):
            ids.append(token)
        self._show([until(self._eos, ids) for ids in self._ids])

    def end(self) -> None:
        """Nothing is held back."""
