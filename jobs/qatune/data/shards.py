"""Which rows belong to which shard: chunk c of the input belongs to shard c modulo their number."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PART = re.compile(r"part-(\d{5,})-(\d{5,})\.jsonl$")
_SHOWN_RANGES = 8


@dataclass(frozen=True)
class Shard:
    """One of `of` workers that divide the chunks among them."""

    number: int = 0
    of: int = 1

    def owns(self, chunk: int) -> bool:
        return chunk % self.of == self.number

    def part(self, chunk: int) -> str:
        return f"parts/part-{self.number:05d}-{chunk:05d}.jsonl"

    def errors(self, chunk: int) -> str:
        return f"errors/part-{self.number:05d}-{chunk:05d}.jsonl"

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Layout:
    """How many rows there are, and how they are cut into chunks."""

    rows: int
    chunk_rows: int

    @property
    def chunks(self) -> int:
        return -(-self.rows // self.chunk_rows)

    def chunks_of(self, shard: Shard) -> range:
        return range(shard.number, self.chunks, shard.of)

    def rows_of_chunk(self, chunk: int) -> range:
        start = chunk * self.chunk_rows
        return range(start, min(start + self.chunk_rows, self.rows))

    def rows_of(self, chunks: Iterable[int]) -> int:
        return sum(len(self.rows_of_chunk(chunk)) for chunk in chunks)

    def spans(self, chunks: Iterable[int]) -> list[tuple[int, int]]:
        """Return the rows of these chunks as (first, last), counted from 1; neighbours joined."""
        spans: list[tuple[int, int]] = []
        for chunk in sorted(chunks):
            rows = self.rows_of_chunk(chunk)
            if spans and spans[-1][1] == rows.start:
                spans[-1] = (spans[-1][0], rows.stop)
            elif rows:
                spans.append((rows.start + 1, rows.stop))
        return spans


def chunk_of(key: str) -> int:
    """Return the chunk that a part or its errors are of: the order of the input."""
    match = _PART.search(key)
    if match is None:
        raise ValueError(f"{key!r} is no part")
    return int(match[2])


def spans_text(spans: Sequence[tuple[int, int]]) -> str:
    """Write spans as `65-128, 193-200`; of many only the first."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    more = len(shown) - _SHOWN_RANGES
    return ", ".join(shown[:_SHOWN_RANGES]) + (f" and {more} more ranges" if more > 0 else "")
