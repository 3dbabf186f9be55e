"""What answers and held-out rows share with the rows that were trained on.

Word sequences are compared by 64-bit hashes, so memory depends on the held-out side alone.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

OVERLAP_WORDS = 13
"""As GPT-3's authors counted it (Brown et al. 2020, appendix C)."""
SHINGLE_WORDS = 5
NEAR = 0.8
"""Jaccard similarity of two rows' shingles from which on they are near-duplicates."""
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(text: str, size: int) -> list[int]:
    found = words(text)
    return [hash(" ".join(found[at : at + size])) for at in range(len(found) - size + 1)]


def _shingles(text: str) -> set[int]:
    """Return a row's shingles; a text of less than five words is one."""
    return set(_grams(text, SHINGLE_WORDS)) or {hash(" ".join(words(text)))}


@dataclass(frozen=True)
class Near:
    """The training row that is most like a held-out one."""

    training: str
    similarity: float


@dataclass
class Repeats:
    """Learns of training rows one after the other, and tells what of them comes again."""

    heldout: Sequence[str]
    """Texts of the held-out rows: question and expected answer."""
    answers: Iterable[str]
    """Of either model."""
    near: dict[int, Near] = field(default_factory=dict)
    """By number of the held-out row."""

    def __post_init__(self) -> None:
        self._wanted = {gram for text in self.answers for gram in _grams(text, OVERLAP_WORDS)}
        self._found: set[int] = set()
        self._shingles = [_shingles(text) for text in self.heldout]
        self._index = _index(self._shingles)

    def see(self, name: str, text: str) -> None:
        """Take a training row into account: its id, its question and answer."""
        self._found.update(gram for gram in _grams(text, OVERLAP_WORDS) if gram in self._wanted)
        ours = _shingles(text)
        for number in {number for each in ours for number in self._index.get(each, ())}:
            theirs = self._shingles[number]
            shared = len(ours & theirs)
            similarity = shared / (len(ours) + len(theirs) - shared)
            best = self.near.get(number)
            if similarity >= NEAR and (best is None or similarity > best.similarity):
                self.near[number] = Near(name, similarity)

    def overlap(self, answer: str) -> float | None:
        """Return the share of an answer's 13-grams that training rows hold; None without any."""
        grams = _grams(answer, OVERLAP_WORDS)
        return sum(gram in self._found for gram in grams) / len(grams) if grams else None


def _index(rows: Sequence[set[int]]) -> dict[int, list[int]]:
    """Find candidates by the rarest shingles of each row, which suffice.

    Two sets as alike as `NEAR` share that part of either: of any more than the rest of a row's
    shingles one is in both (Chaudhuri et al. 2006, prefix filtering).
    """
    common = Counter(each for row in rows for each in row)
    index: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        enough = len(row) - math.ceil(NEAR * len(row)) + 1
        for each in sorted(row, key=lambda one: (common[one], one))[:enough]:
            index[each].append(number)
    return index
