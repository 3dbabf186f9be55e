"""Read the rows, check and tokenize them once, and divide them into training and held-out ones."""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from qatune import log, scratch
from qatune.config import Data, Generate
from qatune.data import lengths, parts, readers, splits
from qatune.data.ahead import ahead, mapped_ahead
from qatune.data.hashing import HashedFile
from qatune.data.lengths import Lengths
from qatune.data.prompts import Template
from qatune.data.records import ROWS, Reason
from qatune.data.selection import Batch, Candidate, Selection, batched
from qatune.errors import BadDataError
from qatune.model.configs import UNBOUNDED, load_config, positions
from qatune.model.tokenizing import Encoded, RowTokenizer, load_tokenizer
from qatune.store.artifacts import StageRun
from qatune.store.objects import ObjectRef
from qatune.store.sources import SourceFile, adapter_folder, data_files, shared_model

SHOWN_CHARACTERS = 200
"""As much of a rejected row's texts is kept."""


def run(stage: StageRun) -> None:
    """Turn `data` into the train and test rows of the run.

    Raises BadDataError for files or rows that cannot be used, UnavailableError for a full disk.
    """
    data, model = stage.recipe.data, stage.recipe.model
    with stage.timed("loading"):
        _find_later_inputs(stage.recipe.generate)
        sources = _readable(data_files(data.source, data.revision, data.files), data)
        found = shared_model(stage.store, model)
        stage.used(found.mirrored or found.tokenizer_files())
        tokenizer = RowTokenizer(load_tokenizer(found.path))
        holds = positions(load_config(found.path))
    with scratch.folder() as folder:
        with stage.timed("working"):
            work = _read_and_tokenize(stage, sources, tokenizer, holds, folder)
            held_out = splits.held_out(data.split, work.kept, work.groups)
        _save(stage, work, held_out, folder)
    _count(stage, work, held_out)
    stage.finish()


def _find_later_inputs(generate: Generate) -> None:
    """Find now what generate will ask for: a typo must not show after hours of training."""
    if generate.input:
        data_files(generate.input, None)
    if generate.adapter not in {"train", "none"}:
        adapter_folder(generate.adapter)


def _readable(sources: list[SourceFile], data: Data) -> list[SourceFile]:
    """Leave out what stands beside the data, as the README of a dataset on the hub."""
    chosen = [source for source in sources if readers.format_suffix(source.name)]
    if not chosen:
        raise BadDataError(
            f"{sources[0].uri if len(sources) == 1 else data.source}: unknown kind of file; "
            + readers.known_names()
        )
    for source in sources:
        if source not in chosen:
            log.get().info("not a data file, left out", file=source.uri)
    return chosen


@dataclass
class _Work:
    """What one pass over the files leaves, besides the spooled rows."""

    inputs: list[ObjectRef] = field(default_factory=list)
    read: int = 0
    kept: int = 0
    ids: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    groups: "array[int]" = field(default_factory=lambda: array("Q"))
    tokens: Lengths = field(default_factory=Lengths)
    characters: Lengths = field(default_factory=Lengths)


def _read_and_tokenize(
    stage: StageRun, sources: list[SourceFile], tokenizer: RowTokenizer, holds: int, folder: Path
) -> _Work:
    """Pass over the files once: reading, tokenizing and writing work at the same time.

    `holds` is the number of tokens that the model can.
    """
    data, work = stage.recipe.data, _Work()
    source_bytes = _Bytes()
    tokenize = partial(_tokenized, data=data, tokenizer=tokenizer, holds=holds)
    with (
        closing(Selection(data, tokenizer.fewest_tokens)) as selection,
        parts.spool_writer(folder / "spool") as spool,
        (folder / "rejected.jsonl").open("w", encoding="utf-8", newline="\n") as rejected,
        stage.progress("reading", sum(source.size for source in sources), "bytes") as progress,
        closing(ahead(_chosen(sources, data, selection, work, source_bytes))) as chosen,
    ):
        for done in mapped_ahead(tokenize, chosen):
            _write_rejected(done.batch, rejected, work)
            spool.write_batch(done.rows)
            _take_account(done, data, work)
            progress.advance(source_bytes.taken(), rows=work.kept)
    _refuse_nothing(work, data)
    return work


class _Bytes:
    """Bytes read by one thread, shown by another."""

    def __init__(self) -> None:
        self.done = self._shown = 0

    def taken(self) -> int:
        """Return what came since the last call."""
        done, before = self.done, self._shown
        self._shown = done
        return done - before


def _chosen(
    sources: list[SourceFile], data: Data, selection: Selection, work: _Work, count: _Bytes
) -> Iterator[Batch]:
    for source in sources:
        with source.open() as raw:
            file = HashedFile(raw, whole=readers.needs_seeking(source.name))
            before = count.done
            for records in batched(readers.read_rows(file, source.name, source.uri, data.columns)):
                count.done = before + file.position
                yield selection.select(records)
            sha256, size = file.finish()
            count.done = before + size
            work.inputs.append(ObjectRef(source.uri, sha256, size))


@dataclass(frozen=True)
class _Tokenized:
    """A batch with the rows of it that are kept."""

    batch: Batch
    kept: Any
    """Indexes of the candidates within the limit."""
    lengths: Any
    """Ids of each candidate."""
    rows: pa.RecordBatch


def _tokenized(batch: Batch, data: Data, tokenizer: RowTokenizer, holds: int) -> _Tokenized:
    """Tokenize a batch and reject what is too long; several threads do this at once."""
    template = Template.of(data)
    rows = [row.source for row in batch.candidates]
    encoded = tokenizer.encode(
        [template.prompt(row.question) for row in rows],
        [template.completion(row.answer) for row in rows],
    )
    kept = _kept(batch, encoded.lengths, data, holds)
    columns = _row_batch(batch.candidates, kept, encoded, tokenizer)
    return _Tokenized(batch, kept, encoded.lengths, columns)


def _kept(batch: Batch, lengths: Any, data: Data, holds: int) -> Any:
    """Return the indexes of the candidates within both limits; reject the others."""
    asked = data.max_length if data.length_unit == "tokens" else UNBOUNDED
    for index in np.flatnonzero((lengths > asked) | (lengths > holds)):
        reason: Reason = "too_long" if lengths[index] > asked else "too_long_for_model"
        batch.rejected.append(batch.candidates[int(index)].rejected(reason))
    return np.flatnonzero((lengths <= asked) & (lengths <= holds))


def _write_rejected(batch: Batch, file: IO[str], work: _Work) -> None:
    work.read += batch.read
    work.rejected.update(row.reason for row in batch.rejected)
    # A batch lies within one file, so its rows' numbers are the order of reading.
    for row in sorted(batch.rejected, key=lambda row: row.row):
        cut = replace(row, question=_cut(row.question), answer=_cut(row.answer))
        file.write(json.dumps(asdict(cut), ensure_ascii=False) + "\n")


def _cut(text: str | None) -> str | None:
    """Shorten a text, and show bytes that are not UTF-8 as U+FFFD."""
    if text is None:
        return None
    return text[:SHOWN_CHARACTERS].encode(errors="surrogatepass").decode(errors="replace")


def _row_batch(
    candidates: Sequence[Candidate], kept: Any, encoded: Encoded, tokenizer: RowTokenizer
) -> pa.RecordBatch:
    rows = [candidates[index] for index in kept]
    columns = [
        pa.array([row.id for row in rows], pa.string()),
        pa.array([row.source.file for row in rows], pa.string()),
        pa.array([row.source.row for row in rows], pa.int64()),
        pa.array([row.source.question for row in rows], pa.string()),
        pa.array([row.source.answer for row in rows], pa.string()),
        tokenizer.ids(encoded, kept),
        pa.array(encoded.prompt_lengths[kept], pa.int32()),
        pa.array([row.source.tests for row in rows], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


def _take_account(done: _Tokenized, data: Data, work: _Work) -> None:
    candidates = done.batch.candidates
    work.tokens.add(done.lengths.tolist())
    work.characters.add(row.characters for row in candidates)
    work.characters.add(done.batch.too_long)
    work.kept += len(done.kept)
    work.ids += int(done.lengths[done.kept].sum())
    questions = (candidates[index].source.question for index in done.kept)
    grouped, seed = data.split.method == "group", data.split.seed
    hash_of = partial(splits.group_hash, seed=seed) if grouped else splits.passing_hash
    work.groups.extend(map(hash_of, questions))


def _refuse_nothing(work: _Work, data: Data) -> None:
    if not work.read:
        raise BadDataError(f"{data.source}: there is no row in it, only a header")
    if not work.kept:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in work.rejected.most_common())
        raise BadDataError(
            f"{data.source}: none of its {work.read:,} rows can be used ({counts}); "
            "check data.columns, data.template and data.max_length"
        )


def _save(stage: StageRun, work: _Work, held_out: Any, folder: Path) -> None:
    with (
        stage.timed("working"),
        stage.progress("writing", work.kept, "rows") as progress,
    ):
        for path in parts.divide(folder / "spool", held_out, folder):
            rows = parquet.read_metadata(path).num_rows
            stage.create(path.name, path)
            path.unlink()
            progress.advance(rows)
    stage.create("rejected.jsonl", folder / "rejected.jsonl")
    summary = lengths.summary(stage.recipe.data, work.tokens, work.characters)
    stage.create("lengths.json", (json.dumps(summary, indent=1) + "\n").encode())
    stage.create("lengths.svg", lengths.picture(summary))


def _count(stage: StageRun, work: _Work, held_out: Any) -> None:
    test = int(held_out.sum())
    grouped = stage.recipe.data.split.method == "group"
    both = 0 if grouped else splits.on_both_sides(work.groups, held_out)
    stage.used(work.inputs)
    stage.counters.update(
        rows_read=work.read,
        rows_kept=work.kept,
        rows_train=work.kept - test,
        rows_test=test,
        questions_on_both_sides=both,
        **{f"rejected_{reason}": count for reason, count in sorted(work.rejected.items())},
        tokens=work.ids,
        bytes_read=sum(ref.size for ref in work.inputs),
    )
    log.get().info("rows divided", train=work.kept - test, test=test, tokens=work.ids)
    if both:
        log.get().warning(splits.both_sides(both, test))
    for reason, count in work.rejected.most_common():
        log.get().info("rows rejected", reason=reason, rows=count)
