"""Answer every question with base and adapter, part by part, and prove that none was lost."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from qatune import interruption, log
from qatune.data import ledger, openai_batch
from qatune.data.prompts import Template
from qatune.data.records import Answer
from qatune.data.requests import Question, Sampling
from qatune.errors import InterruptedRunError, QatuneError
from qatune.interruption import Interruption
from qatune.log import Progress
from qatune.model import engines
from qatune.model.answering import Answerer, Answers
from qatune.model.engines import StaticEngine
from qatune.model.opening import FoundModel, find_model
from qatune.store import questions
from qatune.store.artifacts import StageRun
from qatune.store.questions import Questions
from qatune.store.sources import check_tokenizer

SHARD = 0
_VARIANTS = ("base", "adapter")


def run(stage: StageRun) -> None:
    with tempfile.TemporaryDirectory(prefix="qatune-") as name:
        scratch = Path(name)
        with stage.timed("loading"):
            rows = _questions(stage, scratch)
            train = stage.parent("train") if "train" in stage.upstream else None
            model = find_model(stage.store, stage.recipe, train, scratch / "adapter")
            if "preprocess" in stage.upstream:
                preprocess = stage.parent("preprocess")
                check_tokenizer(preprocess, stage.recipe.model.source, model.base_files)
        stage.used([*rows.files, *model.files])
        with interruption.watched() as stop, stage.progress("answering", rows.total, "rows") as bar:
            _answer_missing_parts(stage, rows, model, bar, stop)
        _account(stage, rows, scratch)
    stage.finish()
    log.get().info("answered", rows=stage.counters["rows"], errors=stage.counters["errors"])


def _questions(stage: StageRun, scratch: Path) -> Questions:
    spec = stage.recipe.generate
    sampling = Sampling(spec.temperature, spec.top_p, spec.top_k, spec.seed)
    defaults = Question("", None, spec.max_new_tokens, sampling)
    if spec.input:
        return questions.of_files(spec.input, stage.recipe.data.columns, defaults, stage.note)
    return questions.held_out(stage.store, stage.parent("preprocess"), scratch, defaults)


def _answer_missing_parts(
    stage: StageRun, rows: Questions, model: FoundModel, bar: Progress, stop: Interruption
) -> None:
    """Go through the chunks; the model is loaded when the first one lacks its part."""
    answerer: Answerer | None = None
    saved, made, answered, started = 0, 0, 0, time.monotonic()

    def done(count: int) -> None:
        nonlocal answered
        answered += count
        bar.advance(count)
        if stop.requested:
            _stop(saved, rows.total, moved=made > 0)

    for number, chunk in enumerate(_chunks(rows, stage.recipe.generate.chunk_rows)):
        if _has_part(stage, number):
            bar.advance(len(chunk))
        else:
            if answerer is None:
                answerer = _answerer(stage, model)
                started = time.monotonic()
            with stage.timed("working"):
                answers = answerer.answer(chunk, done)
            _save(stage, number, answers)
            made += 1
        saved += len(chunk)
    if answered:
        rate = answered / max(time.monotonic() - started, 1e-9)
        stage.counters["prompts_per_second"] = round(rate, 3)


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


def _answerer(stage: StageRun, model: FoundModel) -> Answerer:
    recipe = stage.recipe
    with stage.timed("loading"):
        loaded = model.load(recipe.model, stage.note)
    stage.device = loaded.device_name
    engine = StaticEngine(loaded, recipe.generate.batch_size)
    return Answerer(loaded, engine, Template.of(recipe.data), recipe.generate.batch_size)


def _chunks(rows: Questions, size: int) -> Iterator[list[Question]]:
    stream = rows.rows()
    while chunk := list(islice(stream, size)):
        yield chunk


def _part(number: int) -> str:
    return f"parts/part-{SHARD:05d}-{number:05d}.jsonl"


def _errors(number: int) -> str:
    return f"errors/part-{SHARD:05d}-{number:05d}.jsonl"


def _has_part(stage: StageRun, number: int) -> bool:
    return stage.store.stat(stage.key(_part(number))) is not None


def _save(stage: StageRun, number: int, answers: Answers) -> None:
    """Write the errors first: a part that is there says that its chunk is complete."""
    _refuse_broken_engine(answers)
    if answers.failed:
        stage.create(_errors(number), _lines(answers.failed))
    stage.create(_part(number), _lines(answers.answered))


def _refuse_broken_engine(answers: Answers) -> None:
    """Raise where the engine failed for each of several rows: that is not the rows' fault."""
    broken = [row for row in answers.failed if row.code == engines.ENGINE_ERROR]
    if len(broken) > 1 and len(broken) == len(answers.failed) and not answers.answered:
        raise QatuneError(f"the model fails for every question, first with: {broken[0].message}")


def _lines(rows: Sequence[Any]) -> bytes:
    return b"".join(_line(asdict(row)) for row in rows)


def _line(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode()


def _account(stage: StageRun, rows: Questions, scratch: Path) -> None:
    """Read every part back, prove the ledger, count, and write OpenAI's files if wanted."""
    counts = dict.fromkeys(("rows", "answers", "errors", "base_tokens", "adapter_tokens"), 0)
    with ExitStack() as files:
        outputs = _openai_outputs(stage, scratch, files) if rows.openai else []
        for number, chunk in enumerate(_chunks(rows, stage.recipe.generate.chunk_rows)):
            answered, failed = _read(stage, _part(number)), _read(stage, _errors(number))
            ledger.prove(
                f"{stage.store.uri}/{stage.key(_part(number))}",
                [question.id for question in chunk],
                [row["id"] for row in answered],
                [row["id"] for row in failed],
            )
            counts["rows"] += len(chunk)
            counts["answers"] += len(answered)
            counts["errors"] += len(failed)
            for variant in _VARIANTS:
                counts[f"{variant}_tokens"] += sum(
                    row[variant]["tokens"] for row in answered if row[variant]
                )
            for output in outputs:
                output.write(chunk, answered, failed)
    for output in outputs:
        stage.create(f"openai/{output.variant}.jsonl", output.path)
    stage.counters |= counts


def _read(stage: StageRun, name: str) -> list[dict[str, Any]]:
    """Return the rows of an object that may be missing, and count it as an output."""
    if stage.store.stat(stage.key(name)) is None:
        return []
    ref = stage.adopt(name)
    return [json.loads(line) for line in stage.store.read(ref.key).splitlines()]


@dataclass(frozen=True)
class _OpenAIOutput:
    """The answers of one model in OpenAI's format, in the order of the requests."""

    variant: str
    model: str
    path: Path
    file: BinaryIO

    def write(
        self,
        chunk: Sequence[Question],
        answered: Sequence[dict[str, Any]],
        failed: Sequence[dict[str, Any]],
    ) -> None:
        rows = {row["id"]: row for row in answered}
        errors = {row["id"]: row for row in failed}
        for question in chunk:
            if row := rows.get(question.id):
                line = openai_batch.response_line(
                    question,
                    model=self.model,
                    prompt_tokens=row["prompt_tokens"],
                    answer=Answer(**row[self.variant]),
                )
            else:
                error = errors[question.id]
                line = openai_batch.error_line(
                    question, model=self.model, code=error["code"], message=error["message"]
                )
            self.file.write(_line(line))


def _openai_outputs(stage: StageRun, scratch: Path, files: ExitStack) -> list[_OpenAIOutput]:
    base, adapter = stage.recipe.model.source, stage.recipe.generate.adapter
    models = {"base": base}
    if adapter != "none":
        models["adapter"] = f"{base}+{stage.run if adapter == 'train' else adapter}"
    outputs = []
    for variant, model in models.items():
        path = scratch / f"openai-{variant}.jsonl"
        outputs.append(_OpenAIOutput(variant, model, path, files.enter_context(path.open("wb"))))
    return outputs
