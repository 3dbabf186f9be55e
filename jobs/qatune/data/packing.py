"""Rows laid end to end into packs of a limited number of tokens."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Divide rows into packs of at most `budget` tokens; return their indices, each once.

    First fit by decreasing length: at most 11/9 of the fewest packs that would do, and one more
    (Johnson 1973). A row that is longer than the budget has a pack of its own.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        fitting = (number for number, left in enumerate(room) if lengths[row] <= left)
        number = next(fitting, len(packs))
        if number == len(packs):
            packs.append([])
            room.append(budget)
        packs[number].append(row)
        room[number] -= lengths[row]
    return packs
