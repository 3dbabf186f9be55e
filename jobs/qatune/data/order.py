"""The order of rows in training: a pure function of the seed and the epoch.

A run that is stopped anywhere knows from (seed, epoch) alone which rows are still to come.
"""

import random
from collections.abc import Sequence

# Rows are sorted by length within so many batches at a time: enough to save most padding,
# few enough that an epoch is still shuffled.
_POOL_BATCHES = 50


def epoch_order(
    lengths: Sequence[int], *, seed: int, epoch: int, batch_size: int, grouped: bool
) -> list[int]:
    """Return the indices of all rows, each once, as epoch number `epoch` visits them.

    `grouped` puts rows of like length into one batch of `batch_size` (of all processes together),
    and the batch with the longest row first, so that a lack of memory shows at once.
    """
    # A text seed goes through SHA-512: the streams of two epochs have nothing in common.
    draw = random.Random(f"{seed}:{epoch}")
    order = list(range(len(lengths)))
    draw.shuffle(order)
    if not grouped:
        return order
    batches = _batches_by_length(order, lengths, batch_size)
    # A batch that is not full stays the last one: rows are cut into batches by position.
    rest = batches.pop() if batches and len(batches[-1]) < batch_size else []
    draw.shuffle(batches)
    if batches:
        longest = max(range(len(batches)), key=lambda index: lengths[batches[index][0]])
        batches.insert(0, batches.pop(longest))
    return [row for batch in [*batches, rest] for row in batch]


def own_batches(
    order: Sequence[int], *, batch_size: int, rank: int = 0, processes: int = 1
) -> list[list[int]]:
    """Return the rows of each batch that process number `rank` takes of a common order.

    All have the same number of batches, so that they take their steps together; of an epoch's
    last rows a process may get none, as no row is taken twice.
    """
    together = batch_size * processes
    starts = range(rank * batch_size, len(order) + rank * batch_size, together)
    return [list(order[start : start + batch_size]) for start in starts]


def _batches_by_length(
    order: Sequence[int], lengths: Sequence[int], batch_size: int
) -> list[list[int]]:
    """Cut a shuffled order into batches, each of rows of like length, longest row first."""
    pool, batches = batch_size * _POOL_BATCHES, []
    for start in range(0, len(order), pool):
        rows = sorted(order[start : start + pool], key=lambda row: -lengths[row])
        batches += [rows[index : index + batch_size] for index in range(0, len(rows), batch_size)]
    return batches
