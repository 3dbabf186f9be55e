"""Which rows are held out: a pure function of the rows, the size asked for and the seed."""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from qatune.config import Split
from qatune.errors import BadDataError

_64_BITS = (1 << 64) - 1


def group_hash(question: str, seed: int) -> int:
    """64 bits that are equal for questions that differ in case or white space only."""
    key = seed.to_bytes(16, "little", signed=True)
    digest = blake2b(_normal(question).encode(), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little")


def passing_hash(question: str) -> int:
    """64 bits like those of `group_hash`, in a third of the time, for this process alone.

    They serve to count: Python draws them anew in each process, so nothing may be divided by them.
    """
    return hash(_normal(question)) & _64_BITS


def _normal(question: str) -> str:
    return " ".join(question.casefold().split())


def held_out(split: Split, rows: int, groups: Sequence[int] | Any) -> Any:
    """Mark the held-out rows: an array of `rows` booleans.

    `groups` holds a `group_hash` for each row; method `shuffle` needs none. Raises BadDataError
    where one side would be empty.
    """
    asked = _asked(split, rows)
    if split.method == "shuffle":
        return _shuffled(rows, asked, split.seed)
    return _grouped(np.asarray(groups, dtype=np.uint64), asked)


def on_both_sides(groups: Sequence[int] | Any, mask: Any) -> int:
    """Count the held-out rows (`mask`) whose question, by its hash, is trained on, too."""
    hashes = np.asarray(groups, dtype=np.uint64)
    return int(np.isin(hashes[mask], hashes[~mask]).sum())


def both_sides(count: int, held_out: int) -> str:
    """Say what `on_both_sides` has counted."""
    return (
        f"{count:,} of {held_out:,} held-out questions stand in the training rows, too: the "
        "held-out loss flatters. data.split.method: group keeps them apart"
    )


def _asked(split: Split, rows: int) -> int:
    """Return the number of rows to hold out, rounded as datasets does."""
    size = split.test_size
    asked = math.ceil(size * rows) if isinstance(size, float) else int(size)
    if not 0 < asked < rows:
        raise BadDataError(
            f"data.split.test_size {size} of {rows} kept rows leaves nothing to learn from; "
            "give more rows or a smaller data.split.test_size"
        )
    return asked


def _shuffled(rows: int, asked: int, seed: int) -> Any:
    """Hold out what datasets' train_test_split(test_size, seed) puts into `test`."""
    mask = np.zeros(rows, dtype=bool)
    mask[np.random.default_rng(seed).permutation(rows)[:asked]] = True
    return mask


def _grouped(groups: Any, asked: int) -> Any:
    """Hold out the groups of smallest hash, as many as come nearest to the size asked for.

    Takes 8 bytes a row besides `groups`, for as long as it looks for the hash in the middle.
    """
    if groups.min() == groups.max():
        raise BadDataError(
            "all kept rows have the same question, so none can be held out; "
            "give more rows or set data.split.method to shuffle"
        )
    middle = np.partition(groups, asked - 1)[asked - 1]  # the group that crosses the size
    without, within = groups < middle, groups <= middle
    fewer, more = int(without.sum()), int(within.sum())
    # The last group always stays for training, the first one never does.
    nearer = fewer > 0 and asked - fewer <= more - asked
    return without if nearer or more == len(groups) else within
