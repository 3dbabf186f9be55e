"""Attention over rows that lie end to end: each row sees itself alone.

Attention over a whole pack with the other rows masked would cost the square of the pack's length;
row by row it costs no more than without packing.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "qatune_rows"
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_HALF = (torch.bfloat16, torch.float16)


def attend_by_rows(model: Any) -> bool:
    """Make a model heed `row_bounds`, where the rows of a pack begin and the last one ends.

    False, and nothing changed, for an architecture whose layers mix tokens in other ways.
    Batches with a mask go through the usual attention.
    """
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    text = causal_lm.config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ["full_attention"])
    softcapped = getattr(text, "attn_logit_softcapping", None) is not None
    if not causal_lm._supports_sdpa or softcapped or not layers <= _KNOWN_LAYERS:  # noqa: SLF001
        return False
    AttentionInterface.register(_NAME, rows_attention)
    AttentionMaskInterface.register(_NAME, _mask)
    causal_lm.set_attn_implementation(_NAME)
    return True


def rows_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_bounds: Sequence[int] | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend within each row, by transformers' interface for attention.

    `query`, `key` and `value` are (batch, heads, tokens, width), with a batch of 1 where there are
    bounds; the result is (batch, tokens, heads, width). `cu_seq_lens_q` says the same to kernels:
    to ask a GPU for it would make it wait in every layer.
    """
    if row_bounds is None:
        return _sdpa(module, query, key, value, attention_mask, **more)
    if query.is_cuda and query.dtype in _HALF and not more.get("dropout"):
        all_rows = [each[0].transpose(0, 1).contiguous() for each in (query, key, value)]
        attended: Tensor = varlen_attn(
            *all_rows,
            *(cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q),
            scale=more.get("scaling"),
            window_size=(sliding_window - 1 if sliding_window else -1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return attended[None], None
    rows = [
        _sdpa(
            module,
            *(each[:, :, first:end] for each in (query, key, value)),
            _window(end - first, sliding_window, query.device),
            **more,
        )[0]
        for first, end in pairwise(row_bounds)
    ]
    return torch.cat(rows, dim=1), None


def _sdpa(*args: Any, **more: Any) -> tuple[Tensor, None]:
    attended: tuple[Tensor, None] = sdpa_attention_forward(*args, **more)
    return attended


def _window(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Return the mask of a row that is longer than the window; none is needed for others."""
    if not sliding_window or length <= sliding_window:
        return None
    places = torch.arange(length, device=device)
    back = places[:, None] - places
    return ((back >= 0) & (back < sliding_window))[None, None]


def _mask(*args: Any, attention_mask: Tensor | None = None, **more: Any) -> Tensor | None:
    """Make a mask for padded batches only: a pack's would be the square of all its tokens."""
    if attention_mask is None:
        return None
    mask: Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **more)
    return mask
