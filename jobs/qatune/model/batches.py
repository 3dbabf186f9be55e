"""Rows on their way to the model: which ones a step takes, and as which tensors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from qatune import config
from qatune.data.order import epoch_order, own_batches
from qatune.data.packing import pack
from qatune.model.distributed import Peers
from qatune.model.scoring import IGNORED

Labelled = tuple[Tensor, Tensor]
"""A row's ids and labels."""


@dataclass(frozen=True)
class Collator:
    """Makes a step's rows of {input_ids, answer_start} the parts that are computed one by one.

    Labels follow from `answer_start` alone: a pad token that is also EOS masks no row's end.
    """

    pad_id: int
    limit: int
    """Tokens of a row that are used."""
    rows: int
    """Rows of a part that is padded."""
    pack_tokens: int
    """Tokens of a part that is packed, at most; 0 to pad."""
    completion_only: bool

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the step's `parts`, each the arguments of a forward, of the rows that teach.

        Of them all: `supervised` tokens are learned, `tokens` are there, `squares` is the sum of
        the squares of the rows' tokens, and so many `positions` are computed for them.
        """
        labelled = [row for row in map(self._labelled, rows) if supervised(row[1])]
        lengths = [len(ids) for ids, _ in labelled]
        parts = [
            packed(part) if self.pack_tokens else padded(part, self.pad_id)
            for part in ([labelled[row] for row in part] for part in self._divided(lengths))
        ]
        return {
            "parts": parts,
            "supervised": sum(supervised(labels) for _, labels in labelled),
            "tokens": sum(lengths),
            "squares": sum(length**2 for length in lengths),
            "positions": sum(part["input_ids"].numel() for part in parts),
        }

    def _labelled(self, row: Mapping[str, Any]) -> Labelled:
        ids = torch.tensor(row["input_ids"][: self.limit])
        labels = ids.clone()
        # Nothing predicts the first token.
        labels[: max(row["answer_start"] if self.completion_only else 1, 1)] = IGNORED
        return ids, labels

    def _divided(self, lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        if self.pack_tokens:
            return pack(lengths, self.pack_tokens)
        starts = range(0, len(lengths), self.rows)
        return [range(start, min(start + self.rows, len(lengths))) for start in starts]


def supervised(labels: Tensor) -> int:
    """Count the tokens that are learned."""
    return int((labels != IGNORED).sum())


def packed(rows: Sequence[Labelled]) -> dict[str, Any]:
    """Lay rows end to end, (1, tokens), each with positions of its own."""
    lengths = [len(ids) for ids, _ in rows]
    bounds = [0, *accumulate(lengths)]
    return {
        "input_ids": torch.cat([ids for ids, _ in rows])[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "row_bounds": bounds,
        "cu_seq_lens_q": torch.tensor(bounds, dtype=torch.int32),
        "max_length_q": max(lengths),
        **_learned(torch.cat([labels for _, labels in rows])[None]),
    }


def padded(rows: Sequence[Labelled], pad_id: int) -> dict[str, Tensor]:
    """Lay rows one above the other, (rows, longest), padded on the right."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for index, (own_ids, own_labels) in enumerate(rows):
        ids[index, : len(own_ids)] = own_ids
        mask[index, : len(own_ids)] = 1
        labels[index, : len(own_ids)] = own_labels
    return {"input_ids": ids, "attention_mask": mask, **_learned(labels)}


def _learned(labels: Tensor) -> dict[str, Tensor]:
    """Return the labels that are learned, and which of all positions, in a row, predict them.

    Found here, as to look for them on a GPU would make the step wait for all before it.
    """
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(-1)
    (predicting,) = torch.nonzero(following != IGNORED, as_tuple=True)
    return {"labels": following[predicting], "predicting": predicting}


class EpochSteps(Sampler[list[int]]):  # type: ignore[misc] # untyped library
    """Gives the rows that this process takes in each step of the epoch that it was last told."""

    def __init__(self, lengths: Sequence[int], train: config.Train, peers: Peers) -> None:
        self._lengths, self._train, self._peers, self._epoch = lengths, train, peers, 0
        self.batch_size = train.per_device_train_batch_size * train.gradient_accumulation_steps

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / (self.batch_size * self._peers.size))

    def __iter__(self) -> Iterator[list[int]]:
        size, accumulated = (
            self._train.per_device_train_batch_size,
            self._train.gradient_accumulation_steps,
        )
        rank, processes = self._peers.rank, self._peers.size
        order = epoch_order(
            self._lengths,
            seed=self._train.seed,
            epoch=self._epoch,
            batch_size=size * processes,
            grouped=self._train.train_sampling_strategy == "group_by_length",
        )
        batches = own_batches(order, batch_size=size, rank=rank, processes=processes)
        for first in range(0, len(batches), accumulated):
            yield list(chain(*batches[first : first + accumulated]))
