"""Runs the held-out rows' answers against their tests, and keeps in the store what became of them.

What an answer does in its time may depend on chance, so a chunk of rows is settled once: a start
after an interruption takes what is there, and goes on behind it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyarrow import parquet

from qatune import log, scratch
from qatune.config import Execute
from qatune.data import executions
from qatune.data.executions import Chunk
from qatune.data.records import Answer, AnsweredRow, Executed, ExecutedRow
from qatune.errors import MissingInputError
from qatune.execution.program import Program, code_of
from qatune.execution.sandboxes import Sandbox, kind_of, open_sandbox
from qatune.log import Progress
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.objects import NoSuchObjectError, fetch

CHUNK_ROWS = 32


@dataclass(frozen=True)
class _Tested:
    """A row with its programs."""

    id: str
    base: Program
    adapter: Program | None

    @property
    def programs(self) -> list[Program]:
        return [self.base, self.adapter] if self.adapter else [self.base]


def execute(
    stage: StageRun, rows: Sequence[AnsweredRow], sandbox: str
) -> dict[str, ExecutedRow] | None:
    """Run the answers of all rows that have tests; return what became of them by the rows' ids.

    None where the recipe does not ask for it. `sandbox` is opened when there is something to run.
    Raises MissingInputError where it is not there, UnavailableError where it goes away for good.
    """
    if not stage.recipe.runs_answers:
        return None
    with stage.timed("loading"):
        tests = _tests(stage)
    asked = [_tested(row, tests[row.id]) for row in rows if row.id in tests]
    execution, chunks = _Execution(stage, sandbox), list[Chunk]()
    total = sum(len(row.programs) for row in asked)
    with stage.timed("working"), stage.progress("executing", total, "answers") as bar:
        for number, start in enumerate(range(0, len(asked), CHUNK_ROWS)):
            chunks.append(execution.chunk(number, asked[start : start + CHUNK_ROWS], bar))
    _note_unshut(stage, chunks)
    done = [row for chunk in chunks for row in chunk.rows]
    log.get().info("executed", rows=len(done), outcomes=_counted(done))
    return {row.id: row for row in done}


def _note_unshut(stage: StageRun, chunks: Sequence[Chunk]) -> None:
    """Ask the chunks: this start may have adopted them from one with another --sandbox."""
    rows = sum(len(chunk.rows) for chunk in chunks)
    unshut = sum(len(chunk.rows) for chunk in chunks if chunk.sandbox == "none")
    if unshut:
        stage.note(
            f"answers to {unshut:,} of {rows:,} rows were run without an isolated sandbox: "
            "--sandbox none"
        )


def _tests(stage: StageRun) -> dict[str, str]:
    """Read the held-out rows' tests by id; rows without any are left out."""
    found = manifests.load(stage.store, stage.run, "preprocess")
    if found is None:
        raise MissingInputError(f"{stage.store.uri}: preprocess of run {stage.run!r} is not there")
    refs = found[0].outputs_like(".parquet", prefix="test-")
    stage.used(refs)
    tests: dict[str, str] = {}
    with scratch.folder() as folder:
        for ref in refs:
            table = parquet.read_table(
                fetch(stage.store, ref, folder / Path(ref.key).name), columns=["id", "tests"]
            )
            pairs = zip(table["id"].to_pylist(), table["tests"].to_pylist(), strict=True)
            tests.update((name, text) for name, text in pairs if text is not None)
    return tests


def _counted(done: Sequence[ExecutedRow]) -> str:
    answers = [answer for row in done for answer in (row.base, row.adapter) if answer]
    counts = Counter(answer.outcome for answer in answers).most_common()
    return ", ".join(f"{count:,} {outcome}" for outcome, count in counts)


def _tested(row: AnsweredRow, tests: str) -> _Tested:
    def program(answer: Answer) -> Program:
        return Program(code_of(answer.text), tests)

    return _Tested(row.id, program(row.base), program(row.adapter) if row.adapter else None)


class _Execution:
    def __init__(self, stage: StageRun, sandbox: str) -> None:
        self._stage, self._name, self._kind = stage, sandbox, kind_of(sandbox)
        self._known: dict[Program, Executed] = {}

    @property
    def _limits(self) -> Execute:
        return self._stage.recipe.execute

    @cached_property
    def _sandbox(self) -> Sandbox:
        return open_sandbox(self._name, self._limits)

    def chunk(self, number: int, rows: Sequence[_Tested], bar: Progress) -> Chunk:
        """Return what is settled of a chunk, which is run first if nothing is."""
        name = f"execution/part-{number:05d}.jsonl"
        try:
            settled = self._stage.adopt(name)
            bar.skip(sum(len(row.programs) for row in rows))
        except NoSuchObjectError:
            ran = Chunk(self._kind, self._run(rows, bar))
            self._stage.settle(name, executions.encode(ran))
            settled = self._stage.adopt(name)
        found = _decoded(self._stage, name, settled, rows)
        if found.sandbox == self._kind:  # a chunk says where all of its programs were run
            self._know(rows, found.rows)
        return found

    def _know(self, rows: Sequence[_Tested], outcomes: Sequence[ExecutedRow]) -> None:
        for row, outcome in zip(rows, outcomes, strict=True):
            self._known[row.base] = outcome.base
            if row.adapter and outcome.adapter:
                self._known[row.adapter] = outcome.adapter

    def _run(self, rows: Sequence[_Tested], bar: Progress) -> list[ExecutedRow]:
        """Run several at a time, and equal programs once."""
        programs = [program for row in rows for program in row.programs]
        new = [program for program in dict.fromkeys(programs) if program not in self._known]
        with _not_waited_for(ThreadPoolExecutor(self._sandbox.parallel)) as pool:
            outcomes = pool.map(lambda program: self._sandbox.run(program, self._limits), new)
            for program, outcome in zip(new, outcomes, strict=True):
                self._known[program] = outcome
                bar.advance()
        bar.advance(len(programs) - len(new))
        known = self._known
        return [
            ExecutedRow(row.id, known[row.base], known[row.adapter] if row.adapter else None)
            for row in rows
        ]


@contextmanager
def _not_waited_for(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """End a pool; where something was raised, as by SIGTERM, leave what runs to its own end."""
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _decoded(stage: StageRun, name: str, data: bytes, rows: Sequence[_Tested]) -> Chunk:
    """Read a settled chunk; raise MissingInputError if it is not one of these rows."""
    try:
        found = executions.decode(data)
    except ValueError:
        found = None
    if found is None or [row.id for row in found.rows] != [row.id for row in rows]:
        raise MissingInputError(
            f"{stage.store.uri}/{stage.key(name)}: not the outcomes that qatune wrote; delete it "
            "and run the same command again"
        )
    return found
