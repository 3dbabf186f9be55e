"""Whether a training can teach what it is meant to: asked of its own collator beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qatune import log
from qatune.data.splits import both_sides
from qatune.errors import BadDataError, BadRecipeError, QatuneError
from qatune.model.training_rows import TrainingRows

_ASKED_ROWS = 1000
"""So many rows, evenly spread, go through the collator; the others are counted by their ends."""
_SHOWN_CHARACTERS = 300
"""As much of the sample's texts is logged."""

Collate = Callable[[list[Mapping[str, Any]]], Mapping[str, Any]]


@dataclass(frozen=True)
class Sample:
    """A row as the model gets it, as text."""

    id: str
    prompt: str
    learned: str
    """What the loss is taken of, special tokens included."""
    tokens: int
    """Of `learned`."""
    ends_with_eos: bool


@dataclass(frozen=True)
class Gates:
    """What was found before the training."""

    sample: Sample
    rows_without_eos: int
    """Training rows whose end mark is not learned."""
    supervised_share: float
    """Of the training rows' tokens."""
    warnings: list[str]

    def content(self, later: list[str]) -> dict[str, Any]:
        """Return checks.json, with the warnings of the training itself."""
        return asdict(self) | {"warnings": self.warnings + later}


def check(
    rows: TrainingRows,
    collate: Collate,
    tokenizer: Any,
    *,
    completion_only: bool,
    counters: Mapping[str, Any],
) -> Gates:
    """Look at what is supervised; `counters` are those of preprocess.

    Raises BadRecipeError or BadDataError where nothing is learned, or no row's end.
    """
    eos = tokenizer.eos_token_id
    used = np.minimum(rows.lengths, rows.limit)
    starts = rows.train["answer_start"].to_numpy() if completion_only else np.ones_like(used)
    supervised = np.maximum(used - np.maximum(starts, 1), 0)
    ends = (supervised > 0) & (_last_ids(rows.train["input_ids"], used) == eos)
    _refuse_nothing(rows, int(supervised.sum()))
    _refuse_endless(rows, ends, tokenizer.eos_token)
    asked = {row: _learned(rows, row, collate) for row in _spread(len(ends))}
    _hold_against(asked, supervised, ends, eos)
    without, first = int((~ends).sum()), asked[0]
    return Gates(
        Sample(
            rows.first_id,
            tokenizer.decode(first.prompt),
            tokenizer.decode(first.ids),
            len(first.ids),
            ends_with_eos=bool(ends[0]),
        ),
        without,
        round(float(supervised.sum() / used.sum()), 6),
        [*_endless(rows, without), *_both_sides(counters)],
    )


def tell(gates: Gates) -> None:
    """Log the sample and the warnings."""
    sample = gates.sample
    log.get().info(
        "what is learned of a row",
        id=sample.id,
        prompt=_shown(sample.prompt),
        learned=_shown(sample.learned),
        tokens=sample.tokens,
        ends_with_eos=sample.ends_with_eos,
    )
    for warning in gates.warnings:
        log.get().warning(warning)


@dataclass(frozen=True)
class _Learned:
    prompt: list[int]
    """Ids before the first one that is learned."""
    ids: list[int]


def _learned(rows: TrainingRows, row: int, collate: Collate) -> _Learned:
    """Read a row's labels out of what the model would be given."""
    fields = {name: rows.train[name][row].as_py() for name in ("input_ids", "answer_start")}
    parts = collate([fields])["parts"]
    if not parts:
        return _Learned(fields["input_ids"][: rows.limit], [])
    first = int(parts[0]["predicting"][0]) + 1
    prompt = parts[0]["input_ids"].reshape(-1)[:first]
    return _Learned(prompt.tolist(), parts[0]["labels"].tolist())


def _spread(rows: int) -> list[int]:
    return sorted({int(row) for row in np.linspace(0, rows - 1, min(rows, _ASKED_ROWS))})


def _last_ids(rows: pa.ChunkedArray, used: np.ndarray) -> np.ndarray:
    """Return the last id that is used of each row; -1 of an empty one."""
    lasts, done = [], 0
    for chunk in rows.chunks:
        offsets, values = chunk.offsets.to_numpy()[:-1], chunk.values.to_numpy()
        own = used[done : done + len(chunk)]
        filled = own > 0
        last = np.full(len(chunk), -1)
        last[filled] = values[(offsets + own - 1)[filled]]
        lasts.append(last)
        done += len(chunk)
    return np.concatenate(lasts)


def _refuse_nothing(rows: TrainingRows, supervised: int) -> None:
    if supervised:
        return
    if rows.limit <= 1:
        raise BadRecipeError(
            f"recipe.train.max_length: of {rows.limit} token nothing can be learned, as nothing "
            "predicts the first; raise it"
        )
    raise BadDataError("no training row has a token to learn: give rows with answers")


def _refuse_endless(rows: TrainingRows, ends: np.ndarray, eos: str) -> None:
    """Refuse a training after which no answer would end."""
    if ends.any():
        return
    if (rows.lengths > rows.limit).all():
        raise BadRecipeError(
            f"recipe.train.max_length: all {len(ends):,} training rows are cut to {rows.limit} "
            "tokens and lose their end mark, so the adapter would never learn to stop; raise it "
            f"(the shortest row has {int(rows.lengths.min())} tokens)"
        )
    raise BadDataError(
        f"none of {len(ends):,} training rows ends with the tokenizer's end mark {eos!r}, so the "
        "adapter would never learn to stop; set the tokenizer's eos_token to what ends its texts"
    )


def _hold_against(
    asked: Mapping[int, _Learned], supervised: np.ndarray, ends: np.ndarray, eos: int
) -> None:
    """Raise QatuneError if what the collator supervises is not what was counted."""
    for row, learned in asked.items():
        found = len(learned.ids), learned.ids[-1:] == [eos]
        if found != (int(supervised[row]), bool(ends[row])):
            end = "" if found[1] else ", without the end mark"
            raise QatuneError(
                f"training row {row}: {found[0]} of its {supervised[row]} tokens to learn are "
                f"supervised{end}: a bug, nothing was trained"
            )


def _endless(rows: TrainingRows, without: int) -> list[str]:
    sentence = (
        f"{without:,} of {len(rows.lengths):,} training rows are learned without their end mark: "
        f"train.max_length cuts them to {rows.limit} tokens, and the adapter may not learn when to "
        "stop. Raise it, or lower data.max_length"
    )
    return [sentence] if without else []


def _both_sides(counters: Mapping[str, Any]) -> list[str]:
    count = counters.get("questions_on_both_sides", 0)
    return [both_sides(count, counters["rows_test"])] if count else []


def _shown(text: str) -> str:
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return log.printable(cut).replace("\n", "\\n")
