"""What answers and held-out rows share with the rows that were trained on.

Word sequences are compared by 64-bit hashes, in sorted arrays: a set would take ten times the
memory. It depends on the held-out side alone.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, field

import numpy as np
from numpy.typing import NDArray

OVERLAP_WORDS = 13
"""As GPT-3's authors counted it (Brown et al. 2020, appendix C)."""
SHINGLE_WORDS = 5
NEAR = 0.8
"""Jaccard similarity of two rows' shingles from which on they are near-duplicates."""
_WORD = re.compile(r"\w+")
_FACTORS = np.random.default_rng(0).integers(2**64, size=OVERLAP_WORDS, dtype=np.uint64) | 1
"""By place in a sequence; odd, so that no bit of a word's hash is lost."""

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _hashes(text: str) -> Hashes:
    """Hash each word."""
    return np.fromiter(map(hash, words(text)), np.int64).view(np.uint64)


def _grams(hashes: Hashes, size: int) -> Hashes:
    """Hash each sequence of so many words, by those of the words."""
    if len(hashes) < size:
        return hashes[:0]
    return np.correlate(hashes, _FACTORS[:size])


def _shingles(hashes: Hashes) -> Hashes:
    """Return a row's shingles, each once, sorted; a text of less than five words is one."""
    if not len(hashes):
        return np.zeros(1, np.uint64)
    return _once(_grams(hashes, min(SHINGLE_WORDS, len(hashes))))


def _once(hashes: Hashes) -> Hashes:
    """Return each of these once, sorted, as np.unique does: that takes more time and memory."""
    hashes = np.sort(hashes)
    first = np.ones(len(hashes), np.bool_)
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:])
    return hashes[first]


def _joined(parts: Iterable[Hashes]) -> Hashes:
    whole = bytearray()
    for part in parts:
        whole += part.tobytes()
    return np.frombuffer(whole, np.uint64)


def _places(known: Hashes, asked: Hashes) -> Numbers:
    """Return where those that are known stand among them; they are sorted, each once."""
    at = np.searchsorted(known, asked, side="right") - 1
    return at[known[at] == asked] if len(known) else at[:0]


@dataclass(frozen=True)
class Near:
    """The training row that is most like a held-out one."""

    training: str
    similarity: float


@dataclass
class Repeats:
    """Learns of training rows one after the other, and tells what of them comes again."""

    heldout: InitVar[Sequence[str]]
    """Texts of the held-out rows: question and expected answer."""
    answers: InitVar[Iterable[str]]
    """Of either model."""
    near: dict[int, Near] = field(default_factory=dict)
    """By number of the held-out row."""

    def __post_init__(self, heldout: Sequence[str], answers: Iterable[str]) -> None:
        self._wanted = _once(_joined(_grams(_hashes(text), OVERLAP_WORDS) for text in answers))
        self._found = np.zeros(len(self._wanted), np.bool_)
        self._shingles = [_shingles(_hashes(text)) for text in heldout]
        self._index = _Index(self._shingles)

    def see(self, name: str, text: str) -> None:
        """Take a training row into account: its id, its question and answer."""
        hashes = _hashes(text)
        self._found[_places(self._wanted, _grams(hashes, OVERLAP_WORDS))] = True
        ours = _shingles(hashes)
        for number in self._index.candidates(ours):
            theirs = self._shingles[number]
            shared = len(_places(theirs, ours))
            similarity = shared / (len(ours) + len(theirs) - shared)
            best = self.near.get(number)
            if similarity >= NEAR and (best is None or similarity > best.similarity):
                self.near[number] = Near(name, similarity)

    def overlap(self, answer: str) -> float | None:
        """Return the share of an answer's 13-grams that training rows hold; None without any."""
        grams = _grams(_hashes(answer), OVERLAP_WORDS)
        known = int(self._found[_places(self._wanted, grams)].sum())
        return known / len(grams) if len(grams) else None


class _Index:
    """Finds candidates by the rarest shingles of each row, which suffice.

    Two sets as alike as `NEAR` share that part of either: of any more than the rest of a row's
    shingles one is in both (Chaudhuri et al. 2006, prefix filtering).
    """

    def __init__(self, rows: Sequence[Hashes]) -> None:
        known, common = np.unique(_joined(rows), return_counts=True)
        rarest = [_rarest(row, common[_places(known, row)]) for row in rows]
        numbers = np.repeat(np.arange(len(rows)), [len(each) for each in rarest])
        keys = _joined(rarest)
        order = np.argsort(keys, kind="stable")
        self._rows = numbers[order].astype(np.int32)
        self._keys, firsts = np.unique(keys[order], return_index=True)
        self._edges = np.append(firsts, len(keys)).astype(np.int32)

    def candidates(self, shingles: Hashes) -> set[int]:
        """Return the numbers of the rows that may be as alike as `NEAR`."""
        return {
            number
            for at in _places(self._keys, shingles).tolist()
            for number in self._rows[self._edges[at] : self._edges[at + 1]].tolist()
        }


def _rarest(row: Hashes, common: Numbers) -> Hashes:
    enough = len(row) - math.ceil(NEAR * len(row)) + 1
    return row[np.argsort(common, kind="stable")[:enough]]
