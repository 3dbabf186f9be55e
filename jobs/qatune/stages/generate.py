"""Answer every question with base and adapter, part by part, and prove that none was lost."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import BinaryIO

from qatune import interruption, log, scratch
from qatune.data import answers, ledger, openai_batch
from qatune.data.prompts import Template
from qatune.data.records import AnsweredRow, Outcome
from qatune.data.requests import Question, Sampling
from qatune.data.shards import Layout, Shard
from qatune.errors import InterruptedRunError, MissingInputError, QatuneError
from qatune.interruption import Interruption
from qatune.log import Progress
from qatune.model.answering import Answerer
from qatune.model.engines import parity
from qatune.model.engines.choice import candidate_engine, default_engine
from qatune.model.engines.protocol import ENGINE_ERROR
from qatune.model.opening import FoundModel, find_model
from qatune.store import questions, shard_records
from qatune.store.artifacts import StageRun
from qatune.store.heartbeats import earlier_heartbeat, lost_seconds
from qatune.store.objects import ObjectRef, verified
from qatune.store.questions import Questions
from qatune.store.shards import check_number, divide, heartbeat_name
from qatune.store.sources import check_tokenizer


@dataclass(frozen=True)
class _Work:
    """One shard's share of the questions."""

    shard: Shard
    rows: Questions
    layout: Layout
    folder: Path
    """Scratch."""

    @property
    def total(self) -> int:
        return self.layout.rows_of(self.layout.chunks_of(self.shard))

    def chunks(self) -> Iterator[tuple[int, list[Question]]]:
        for number, chunk in _chunks(self.rows, self.layout.chunk_rows):
            if self.shard.owns(number):
                yield number, chunk


def run(stage: StageRun, shard: int = 0, shards: int = 1) -> None:
    """Answer one shard's rows; the shard that is done last completes the stage.

    Raises BadRecipeError where the run is divided into another number of shards.
    """
    mine = Shard(shard, shards)
    check_number(stage.store, stage.run, shards)
    with scratch.folder() as folder:
        recorded = shard_records.is_recorded(stage.store, stage.run, mine)
        rows = None if recorded else _do_shard(stage, mine, folder)
        if shard_records.all_recorded(stage.store, stage.run, mine):
            end = stage.anew()
            _complete(end, rows or _questions(end, folder), shards, folder)


def _do_shard(stage: StageRun, shard: Shard, folder: Path) -> Questions:
    """Answer what is not answered yet, prove that all is, and write the shard's record."""
    with stage.timed("loading"):
        rows = _questions(stage, folder)
    stage.used(rows.files)
    work = _Work(shard, rows, Layout(rows.total, stage.recipe.generate.chunk_rows), folder)
    if work.total:
        _answer(stage, work)
    _account(stage, work)
    divide(stage, shard.of, work.layout)
    shard_records.save_record(stage, shard)
    counters = stage.counters
    log.get().info("answered", shard=shard.number, rows=counters["rows"], errors=counters["errors"])
    return rows


def _questions(stage: StageRun, folder: Path) -> Questions:
    spec = stage.recipe.generate
    sampling = Sampling(spec.temperature, spec.top_p, spec.top_k, spec.seed)
    defaults = Question("", None, spec.max_new_tokens, sampling)
    if spec.input:
        return questions.of_files(spec.input, stage.recipe.data.columns, defaults, stage.note)
    return questions.held_out(stage.store, stage.parent("preprocess"), folder, defaults)


def _answer(stage: StageRun, work: _Work) -> None:
    with stage.timed("loading"):
        train = stage.parent("train") if "train" in stage.upstream else None
        model = find_model(
            stage.base_model(), stage.store, stage.recipe, train, work.folder / "adapter"
        )
        if "preprocess" in stage.upstream:
            preprocess = stage.parent("preprocess")
            check_tokenizer(preprocess, stage.recipe.model.source, model.base_files)
    stage.used(model.files)
    name = heartbeat_name(work.shard)
    beat = earlier_heartbeat(stage.store, stage.key(name))
    with (
        interruption.watched() as stop,
        stage.progress("answering", work.total, "rows", name) as bar,
    ):
        answered = _answer_missing_parts(stage, work, model, bar, stop)
    stage.seconds["lost"] = lost_seconds(beat, work.total - answered)


def _answer_missing_parts(
    stage: StageRun, work: _Work, model: FoundModel, bar: Progress, stop: Interruption
) -> int:
    """Go through the chunks; the model is loaded when the first one lacks its part.

    Returns how many rows this start has answered.
    """
    answerer: Answerer | None = None
    saved, made, answered, tokens, started = 0, 0, 0, 0, time.monotonic()

    def done(rows: int) -> None:
        nonlocal answered
        answered += rows
        bar.advance(rows)
        if stop.requested:
            _stop(saved, work.total, moved=made > 0)

    for number, chunk in work.chunks():
        done(0)
        if stage.store.stat(stage.key(work.shard.part(number))) is not None:
            bar.skip(len(chunk))
        else:
            if answerer is None:
                answerer = _answerer(stage, work, model)
                started = time.monotonic()
                done(0)
            with stage.timed("working"):
                rows = answerer.answer(chunk, done)
            _refuse_broken_engine(answerer, rows)
            _save(stage, work, number, rows)
            made += 1
            tokens += _generated_tokens(rows)
        saved += len(chunk)
    if answerer is None and work.total:
        _answerer(stage, work, model)  # for what its record says of the model: device and fallbacks
    if answered:
        rates = (answered / (time.monotonic() - started), tokens / stage.seconds["working"])
        stage.counters |= {
            name: round(rate, 3) for name, rate in zip(shard_records.RATES, rates, strict=True)
        }
    return answered


def _generated_tokens(rows: Sequence[Outcome]) -> int:
    """Count the tokens of all answers to these questions."""
    return sum(
        answer.tokens
        for row in answers.divided(rows)[0]
        for answer in (row.base, row.adapter)
        if answer
    )


def _stop(saved: int, total: int, *, moved: bool) -> None:
    """Say that work is saved only if this start saved some: else it could be started for ever."""
    if not moved:
        raise QatuneError(
            f"stopped before the first part of this start was done, {saved} of {total} rows are "
            "saved; run the same command again, with more time or a smaller generate.chunk_rows"
        )
    raise InterruptedRunError(
        f"stopped after {saved} of {total} rows, saved; run the same command again"
    )


def _answerer(stage: StageRun, work: _Work, model: FoundModel) -> Answerer:
    recipe = stage.recipe
    with stage.timed("loading"):
        loaded = model.load(recipe.model, stage.note)
        stage.device = loaded.device_name
        default = default_engine(loaded, recipe.generate, stage.note)
        size = recipe.generate.batch_size
        answerer = Answerer(loaded, default, Template.of(recipe.data), size)
        candidate = candidate_engine(model, loaded, recipe, work.folder)
        if candidate is None:
            return answerer
        rows = parity.sample(row for _, chunk in work.chunks() for row in chunk)
        asked = answerer.requests(rows)
        certificate = parity.certify(candidate, default, loaded, asked, recipe.generate)
        stage.certificates.append(certificate)
        if certificate.passed:
            return Answerer(loaded, candidate, Template.of(recipe.data), size)
        stage.note(parity.refusal(certificate))
    return answerer


def _chunks(rows: Questions, size: int) -> Iterator[tuple[int, list[Question]]]:
    """Cut the rows as they are now: that these are not the ones counted before is found later."""
    stream = rows.rows()
    for number in count():
        chunk = list(islice(stream, size))
        if not chunk:
            return
        yield number, chunk


def _save(stage: StageRun, work: _Work, number: int, rows: Sequence[Outcome]) -> None:
    """Settle a chunk by one object, answers and errors together.

    Of two workers at the same chunk the slower one goes on with what the other made of it.
    """
    divide(stage, work.shard.of, work.layout)
    part = work.shard.part(number)
    if not stage.settle(part, answers.encode(rows)):
        log.get().info("already answered by another worker", part=stage.key(part))


def _refuse_broken_engine(answerer: Answerer, rows: Sequence[Outcome]) -> None:
    """Raise where the engine fails for whatever it is asked: that is not the rows' fault."""
    answered, failed = answers.divided(rows)
    if answered or not any(row.code == ENGINE_ERROR for row in failed):
        return
    if fault := answerer.broken():
        raise QatuneError(f"the model fails for every question, with: {fault.message}")


def _account(stage: StageRun, work: _Work) -> None:
    """Read the shard's parts back, prove its ledger, show its errors apart, and count."""
    counts = dict.fromkeys(shard_records.SUMMED, 0)
    for number, chunk in work.chunks():
        part = work.shard.part(number)
        answered, failed = answers.divided(_adopted(stage, part))
        ledger.prove(
            f"{stage.store.uri}/{stage.key(part)}",
            [question.id for question in chunk],
            [row.id for row in answered],
            [row.id for row in failed],
        )
        if failed:
            stage.create(work.shard.errors(number), answers.encode(failed))
        counts["rows"] += len(chunk)
        counts["answers"] += len(answered)
        counts["errors"] += len(failed)
        counts["base_tokens"] += sum(row.base.tokens for row in answered)
        counts["adapter_tokens"] += sum(row.adapter.tokens for row in answered if row.adapter)
    stage.counters |= counts


def _adopted(stage: StageRun, part: str) -> list[Outcome]:
    """Return the rows of a part, and count it as an output."""
    try:
        return answers.decode(stage.adopt(part))
    except ValueError:
        raise MissingInputError(
            f"{stage.store.uri}/{stage.key(part)}: not a part that qatune wrote; "
            "delete it and run the same command again"
        ) from None


def _complete(end: StageRun, rows: Questions, shards: int, folder: Path) -> None:
    """Prove that the shards' records cover the input, and write the stage's manifest of them."""
    records = shard_records.load_records(end, shards)
    layout = Layout(rows.total, end.recipe.generate.chunk_rows)
    shard_records.check_cover(f"{end.store.uri}/{end.key('parts')}", records, layout)
    end.used(rows.files)
    if rows.openai:
        parts = {ref.key: ref for record in records for ref in record.outputs}
        _write_openai(end, rows, shards, parts, folder)
    manifest = end.complete(shard_records.merged(end.manifest(), records))
    counters = manifest.counters
    log.get().info("complete", shards=shards, rows=counters["rows"], errors=counters["errors"])


def _write_openai(
    end: StageRun, rows: Questions, shards: int, parts: Mapping[str, ObjectRef], folder: Path
) -> None:
    """Write OpenAI's files from all parts, in the order of the requests."""
    with ExitStack() as files:
        outputs = _openai_outputs(end, folder, files)
        for number, chunk in _chunks(rows, end.recipe.generate.chunk_rows):
            part = parts[end.key(Shard(number % shards, shards).part(number))]
            by_id = {row.id: row for row in answers.decode(verified(end.store, part))}
            for output in outputs:
                output.write(chunk, by_id)
    for output in outputs:
        end.create(f"openai/{output.variant}.jsonl", output.path)


@dataclass(frozen=True)
class _OpenAIOutput:
    """The answers of one model in OpenAI's format, in the order of the requests."""

    variant: str
    model: str
    path: Path
    file: BinaryIO

    def write(self, chunk: Sequence[Question], rows: Mapping[str, Outcome]) -> None:
        for question in chunk:
            row = rows[question.id]
            if isinstance(row, AnsweredRow):
                line = openai_batch.response_line(
                    question,
                    model=self.model,
                    prompt_tokens=row.prompt_tokens,
                    answer=getattr(row, self.variant),
                )
            else:
                line = openai_batch.error_line(
                    question, model=self.model, code=row.code, message=row.message
                )
            self.file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def _openai_outputs(stage: StageRun, folder: Path, files: ExitStack) -> list[_OpenAIOutput]:
    base, adapter = stage.recipe.model.source, stage.recipe.generate.adapter
    models = {"base": base}
    if adapter != "none":
        models["adapter"] = f"{base}+{stage.run if adapter == 'train' else adapter}"
    outputs = []
    for variant, model in models.items():
        path = folder / f"openai-{variant}.jsonl"
        outputs.append(_OpenAIOutput(variant, model, path, files.enter_context(path.open("wb"))))
    return outputs
