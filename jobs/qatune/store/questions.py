"""The questions to be answered: held-out rows of a run, or any file of questions.

Both can be read again and again, in the same order: once to answer, once to prove the ledger.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyarrow import parquet

from qatune.config import Columns
from qatune.data import openai_batch
from qatune.data.archives import damage_named, decompressed
from qatune.data.hashing import HashedFile
from qatune.data.readers import RECORD_BYTES, format_suffix, needs_seeking, read_rows
from qatune.data.records import Rejected, SourceRow
from qatune.data.requests import Fault, Question, distinct
from qatune.errors import BadDataError
from qatune.store.manifests import Manifest
from qatune.store.objects import ObjectRef, Store, fetch
from qatune.store.sources import SourceFile, data_files

_PARQUET_ROWS = 256


@dataclass(frozen=True)
class Questions:
    """A source of questions. Ids are unique in it."""

    rows: Callable[[], Iterator[Question]]
    """Begins again at the first row each time."""
    total: int
    files: Sequence[ObjectRef]
    """What was read, for the manifest."""
    openai: bool = False
    """The answers are wanted in OpenAI's format, too."""


def held_out(store: Store, preprocess: Manifest, folder: Path, defaults: Question) -> Questions:
    """Fetch a run's held-out rows into `folder`. `defaults` says how they are answered."""
    refs = sorted(preprocess.outputs_like(".parquet", prefix="test-"), key=lambda ref: ref.key)
    paths = [fetch(store, ref, folder / Path(ref.key).name) for ref in refs]

    def rows() -> Iterator[Question]:
        for path in paths:
            yield from _parquet_rows(path, defaults)

    return Questions(rows, sum(parquet.read_metadata(path).num_rows for path in paths), refs)


def training_rows(
    store: Store, preprocess: Manifest, folder: Path
) -> Iterator[tuple[str, str, str]]:
    """Yield id, question and answer of a run's training rows, a file in `folder` at a time."""
    names = ["id", "question", "answer"]
    for ref in sorted(
        preprocess.outputs_like(".parquet", prefix="train-"), key=lambda ref: ref.key
    ):
        path = fetch(store, ref, folder / Path(ref.key).name)
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_ROWS, columns=names):
                columns = (batch.column(name).to_pylist() for name in names)
                yield from zip(*columns, strict=True)
        path.unlink()


def of_files(
    source: str, columns: Columns, defaults: Question, note: Callable[[str], None]
) -> Questions:
    """Read questions from a path or `s3://`; a column of expected answers may be missing.

    Raises BadDataError for a file that cannot be read, or without a row.
    """
    files, columns = data_files(source, None), columns.model_copy(update={"tests": None})
    openai = _is_openai(files[0])
    rows = _openai_rows(files, defaults) if openai else _plain_rows(files, columns, defaults, note)
    total = sum(1 for _ in rows())
    if not total:
        raise BadDataError(f"{source}: no rows to answer; add questions, or set generate.input")
    return Questions(rows, total, [_described(file) for file in files], openai)


def _parquet_rows(path: Path, defaults: Question) -> Iterator[Question]:
    names = ["id", "question", "answer", "input_ids", "answer_start"]
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_PARQUET_ROWS, columns=names):
            for row in batch.to_pylist():
                ids, start = row["input_ids"], row["answer_start"]
                yield replace(
                    defaults,
                    id=row["id"],
                    question=row["question"],
                    expected=row["answer"],
                    prompt_ids=ids[:start],
                    expected_ids=ids[start:],
                )


def _is_openai(file: SourceFile) -> bool:
    if format_suffix(file.name) in (None, ".csv", ".parquet"):
        return False
    return openai_batch.is_batch(line for line in _lines(file) if line.strip())


def _openai_rows(
    files: Sequence[SourceFile], defaults: Question
) -> Callable[[], Iterator[Question]]:
    def rows() -> Iterator[Question]:
        lines = (line for file in files for line in _lines(file))
        return openai_batch.read(lines, defaults)

    return rows


def _lines(file: SourceFile) -> Iterator[bytes]:
    with file.open() as raw, damage_named(file.uri, "JSONL"):
        content = decompressed(raw, file.name)
        while line := content.readline(RECORD_BYTES):
            yield line


def _plain_rows(
    files: Sequence[SourceFile], columns: Columns, defaults: Question, note: Callable[[str], None]
) -> Callable[[], Iterator[Question]]:
    """Name rows by their id column, else by their number over all files."""
    only_questions = columns.model_copy(update={"answer": columns.question})
    with_answers = _all_readable(files, columns)
    if not with_answers:
        note(f"{files[0].uri}: no column {columns.answer!r}: there is nothing to compare with")

    def records() -> Iterator[tuple[SourceRow | Rejected, str | None]]:
        for file in files:
            asked = _records(file, only_questions)
            if not with_answers:
                yield from ((record, None) for record in asked)
                continue
            # Read side by side, so that a row without an answer is still a question.
            for record, whole in zip(asked, _records(file, columns), strict=True):
                yield record, whole.answer if isinstance(whole, SourceRow) else None

    def rows() -> Iterator[Question]:
        numbered = enumerate(records(), start=1)
        questions = (_question(n, record, answer, defaults) for n, (record, answer) in numbered)
        if columns.id is None:
            return questions
        # A row that cannot be read has no id: `distinct` gives it one that no other row has.
        return distinct(replace(row, id="") if row.fault else row for row in questions)

    return rows


def _records(file: SourceFile, columns: Columns) -> Iterator[SourceRow | Rejected]:
    with file.open() as raw:
        content = HashedFile(raw, whole=needs_seeking(file.name))
        yield from read_rows(content, file.name, file.uri, columns)


def _all_readable(files: Sequence[SourceFile], columns: Columns) -> bool:
    """Tell whether every file has the columns. A fault of another kind shows without them, too."""
    try:
        for file in files:
            for _ in _records(file, columns):
                pass
    except BadDataError:
        return False
    return True


def _question(
    number: int, record: SourceRow | Rejected, answer: str | None, defaults: Question
) -> Question:
    if isinstance(record, SourceRow):
        name = str(number) if record.id is None else record.id
        return replace(defaults, id=name, question=record.question, expected=answer)
    text = record.question and record.question.encode(errors="replace").decode()
    fault = Fault(record.reason, f"row {record.row} of {record.file} is not a question")
    return replace(defaults, id=str(number), question=text, fault=fault)


def _described(file: SourceFile) -> ObjectRef:
    with file.open() as raw:
        sha256, size = HashedFile(raw).finish()
    return ObjectRef(file.uri, sha256, size)
