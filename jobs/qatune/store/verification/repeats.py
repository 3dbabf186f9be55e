"""What is there twice among more values than memory should hold."""

from array import array
from collections.abc import Hashable, Iterable

import pyarrow as pa
import pyarrow.compute as pc


class Hashes:
    """64 bits of each value. What repeats here may be two values: look at them again."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, values: Iterable[Hashable]) -> None:
        self._hashes.extend(map(hash, values))

    def repeated(self) -> set[int]:
        """Return the hashes that are there more than once."""
        buffer = pa.py_buffer(self._hashes)
        hashes = pa.Array.from_buffers(pa.int64(), len(self._hashes), [None, buffer])
        if pc.count_distinct(hashes).as_py() == len(hashes):
            return set()
        counts = pc.value_counts(hashes)
        more = pc.greater(counts.field("counts"), 1)
        return set(counts.field("values").filter(more).to_pylist())
