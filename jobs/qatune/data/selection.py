"""Which rows go on to the tokenizer: batches of them, duplicates and the far too long left out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from qatune.config import Data
from qatune.data.prompts import Template
from qatune.data.records import Reason, Rejected, SourceRow
from qatune.data.seen import SeenSet, digest

BATCH_ROWS = 1024
BATCH_CHARACTERS = 1 << 19


@dataclass(frozen=True)
class Candidate:
    """A row that may be used, with its id and the length of its text in characters."""

    id: str
    source: SourceRow
    characters: int

    def rejected(self, reason: Reason) -> Rejected:
        row = self.source
        return Rejected(row.file, row.row, reason, row.question, row.answer)


@dataclass(frozen=True)
class Batch:
    read: int
    candidates: Sequence[Candidate]
    rejected: list[Rejected]
    too_long: Sequence[int]
    """Lengths in characters of the rows that were rejected for it."""


def batched(records: Iterable[SourceRow | Rejected]) -> Iterator[list[SourceRow | Rejected]]:
    """Cut into lists that are small in rows and, but for a single huge row, in characters."""
    batch: list[SourceRow | Rejected] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.question or "") + len(record.answer or "")
        if isinstance(record, SourceRow) and record.tests:
            characters += len(record.tests)
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class Selection:
    """Tells of each row, in the order of reading, whether it is used.

    Of rows with the same id, and then of rows with the same texts, the first counts. Without a
    column for it, the id is the running number of the row over all files. `fewest_tokens` bounds
    from below how many tokens a text has, so that a huge one is never tokenized.
    """

    def __init__(self, data: Data, fewest_tokens: Callable[[str], int]) -> None:
        self._template = Template.of(data)
        self._limit, self._unit = data.max_length, data.length_unit
        self._fewest_tokens = fewest_tokens
        self._ids = SeenSet() if data.columns.id else None
        self._texts = SeenSet() if data.drop_duplicates else None
        self._read = 0

    def select(self, records: Sequence[SourceRow | Rejected]) -> Batch:
        rejected: list[Rejected] = []
        rows: list[Candidate] = []
        for record in records:
            self._read += 1
            if isinstance(record, Rejected):
                rejected.append(record)
            else:
                rows.append(self._candidate(record))
        if self._ids:
            digests = [digest(row.id) for row in rows]
            rows = _keep(rows, self._ids.add(digests), "duplicate_id", rejected)
        if self._texts:
            # No text holds a NUL: the pair cannot be mistaken for another.
            digests = [digest(f"{row.source.question}\0{row.source.answer}") for row in rows]
            rows = _keep(rows, self._texts.add(digests), "duplicate", rejected)
        fits = [self._may_fit(row) for row in rows]
        too_long = [row.characters for row, fit in zip(rows, fits, strict=True) if not fit]
        rows = _keep(rows, fits, "too_long", rejected)
        return Batch(len(records), rows, rejected, too_long)

    def close(self) -> None:
        for seen in (self._ids, self._texts):
            if seen:
                seen.close()

    def _candidate(self, row: SourceRow) -> Candidate:
        characters = self._template.characters(row.question, row.answer)
        return Candidate(row.id or str(self._read), row, characters)

    def _may_fit(self, row: Candidate) -> bool:
        if self._unit == "characters" or row.characters <= self._limit:
            return row.characters <= self._limit
        texts = row.source.question, row.source.answer
        return sum(map(self._fewest_tokens, texts)) <= self._limit


def _keep(
    rows: Sequence[Candidate], kept: Sequence[bool], reason: Reason, rejected: list[Rejected]
) -> list[Candidate]:
    pairs = list(zip(rows, kept, strict=True))
    rejected += [row.rejected(reason) for row, keep in pairs if not keep]
    return [row for row, keep in pairs if keep]
