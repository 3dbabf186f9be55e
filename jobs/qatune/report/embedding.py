"""The rows as the page's script reads them: columns, so that thousands of them stay small."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from qatune.data.records import FailedRow
from qatune.evaluation.measures import BY_KEY
from qatune.evaluation.rows import VARIANTS

_DIGITS = 4


# Columns of each model that rows can be sorted by: the measure they belong to, decimal places.
_SORTABLE = {
    "loss": ("loss_per_token", 3),
    "chrf": ("chrf", 1),
    "bleu": ("bleu", 1),
    "rouge_l": ("rouge_l", 3),
    "exact_match": ("exact_match", 0),
    "code_parses": ("code_parses", 0),
    "repetition": ("repetition", 3),
    "training_overlap": ("training_overlap", 3),
    "length_ratio": ("length_ratio", 2),
    "tokens": ("mean_tokens", 0),
}
_OF_A_ROW = (
    "id", "question", "expected", "expected_tokens", "near_duplicate", "near_duplicate_similarity",
)  # fmt: skip
_SHOWN_ONLY = ("text", "finish", "looping", "empty", "executed", "executed_message")


def columns(rows: pa.Table, failed: Sequence[FailedRow]) -> dict[str, Any]:
    """Give rows.parquet and the rows without an answer one list a column.

    What no row has is left out; a model that gave no answers is null.
    """
    variants = {variant: _variant(rows, variant) for variant in VARIANTS}
    found = [name for variant in variants.values() if variant for name in variant]
    return {
        "count": rows.num_rows,
        **dict(_kept(rows, "", _OF_A_ROW)),
        **variants,
        "failed": [[row.id, row.question, f"{row.code}: {row.message}"] for row in failed],
        "measures": [
            [column, BY_KEY[key].label, places]
            for column, (key, places) in _SORTABLE.items()
            if column in found
        ],
    }


def _variant(rows: pa.Table, variant: str) -> dict[str, list[Any]] | None:
    found = dict(_kept(rows, f"{variant}_", (*_SHOWN_ONLY, *_SORTABLE)))
    return found if "text" in found else None


def _kept(rows: pa.Table, prefix: str, names: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    for name in names:
        values = [_short(value) for value in rows[f"{prefix}{name}"].to_pylist()]
        if any(value is not None for value in values):
            yield name, values


def _short(value: Any) -> Any:
    """Shorten a number to what is shown; what is none becomes null."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return value
