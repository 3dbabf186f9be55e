"""Rows on their way to the model: which ones come together, and as which tensors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from qatune import config
from qatune.data.order import epoch_order, own_batches
from qatune.model.distributed import Peers

IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class Collator:
    """Makes rows of {input_ids, answer_start} a batch, cut to `limit` and padded on the right.

    Labels follow from `answer_start` alone: a pad token that is also EOS masks no row's end.
    `supervised` is their number, as the model will predict them: from the second token on.
    """

    pad_id: int
    limit: int
    completion_only: bool

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        length = min(max((len(row["input_ids"]) for row in rows), default=0), self.limit)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED)
        for index, row in enumerate(rows):
            tokens = torch.tensor(row["input_ids"][: self.limit])
            first = row["answer_start"] if self.completion_only else 0
            ids[index, : len(tokens)] = tokens
            mask[index, : len(tokens)] = 1
            labels[index, first : len(tokens)] = tokens[first:]
        supervised = int((labels[:, 1:] != IGNORED).sum())
        return {
            "input_ids": ids, "attention_mask": mask, "labels": labels, "supervised": supervised
        }  # fmt: skip


class EpochBatches(Sampler[list[int]]):  # type: ignore[misc] # untyped library
    """Gives this process's batches of the epoch that it was last told."""

    def __init__(self, lengths: Sequence[int], train: config.Train, peers: Peers) -> None:
        self._lengths, self._train, self._peers, self._epoch = lengths, train, peers, 0
        self.batch_size = train.per_device_train_batch_size

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / (self.batch_size * self._peers.size))

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(
            self._lengths,
            seed=self._train.seed,
            epoch=self._epoch,
            batch_size=self.batch_size * self._peers.size,
            grouped=self._train.train_sampling_strategy == "group_by_length",
        )
        rank, processes = self._peers.rank, self._peers.size
        return iter(own_batches(order, batch_size=self.batch_size, rank=rank, processes=processes))
