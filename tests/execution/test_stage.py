"""Execution as a part of evaluate: which answers are run, and what is kept of them."""

import csv
import json
import threading
import time
from dataclasses import replace

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.support.qatune_command import fails, qatune
from tests.support.sandboxed import serving

from qatune import recipe
from qatune.data import executions
from qatune.data.records import ROWS, Answer, AnsweredRow, Executed
from qatune.errors import MissingInputError, UnavailableError, UsageError
from qatune.execution import sandboxes
from qatune.execution import stage as execution
from qatune.execution.stage import execute
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore

RIGHT, WRONG = "def double(n): return 2 * n", "def double(n): return n"
TESTS = "assert double(1) == 2"
PART = "runs/r/evaluate/execution/part-00000.jsonl"


def a_recipe(**columns):
    data = {"source": "rows.csv", "columns": {"tests": "tests"} | columns}
    fields = {"model": {"source": "m"}, "data": data, "execute": {"timeout_seconds": 2}}
    return recipe.validate(fields | {"generate": {"adapter": "none"}})


def prepared(rows, ours=None):
    """Hold out rows (id, tests), and open evaluate."""
    store, ours = MemoryStore(), ours or a_recipe()
    stage = StageRun.open(store, "r", "preprocess", ours)
    for number, part in enumerate((rows[:2], rows[2:])):
        lines = [
            {"id": name, "file": "rows.csv", "row": 1, "question": "q", "answer": "a",
             "input_ids": [1], "answer_start": 1, "tests": tests}
            for name, tests in part
        ]  # fmt: skip
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(lines, ROWS), sink)
        stage.create(f"test-{number:05d}.parquet", sink.getvalue().to_pybytes())
    stage.finish()
    StageRun.open(store, "r", "generate", ours).finish()
    return StageRun.open(store, "r", "evaluate", ours)


def answered(name, base, adapter=None):
    base, adapter = (text and Answer(text, 1, "stop", None) for text in (base, adapter))
    return AnsweredRow(name, "q", "a", 1, 1, base, adapter)


def outcomes(found):
    return {
        name: (row.base.outcome, row.adapter.outcome if row.adapter else None)
        for name, row in found.items()
    }


def test_rows_with_tests_are_run_for_base_and_adapter():
    stage = prepared([("1", TESTS), ("2", None), ("3", TESTS), ("4", "assert False")])
    rows = [answered("4", RIGHT, RIGHT), answered("2", RIGHT, RIGHT), answered("1", WRONG, RIGHT)]
    found = execute(stage, rows, "bubblewrap")
    assert outcomes(found) == {"4": ("failed", "failed"), "1": ("failed", "passed")}
    kept = executions.decode(stage.store.read(PART))
    assert kept.sandbox == "bubblewrap"
    assert {row.id: row for row in kept.rows} == found
    manifest = stage.manifest()
    assert [ref.key for ref in manifest.outputs] == [PART]
    assert len([ref for ref in manifest.inputs if "/test-" in ref.key]) == 2
    assert not stage.notes


def test_without_an_adapter_the_base_is_run_alone():
    found = execute(prepared([("1", TESTS)]), [answered("1", RIGHT)], "bubblewrap")
    assert outcomes(found) == {"1": ("passed", None)}


@pytest.mark.parametrize("missing", ["tests", "rows"])
def test_nothing_is_run_that_nobody_asked_for(missing, monkeypatch):
    def opened(*_):
        raise AssertionError

    monkeypatch.setattr(execution, "open_sandbox", opened)
    if missing == "tests":
        stage = prepared([("1", TESTS)], a_recipe(tests=None))
        assert execute(stage, [answered("1", RIGHT)], "bubblewrap") is None
    else:
        assert execute(prepared([("1", None)]), [answered("1", RIGHT)], "bubblewrap") == {}


def test_a_questions_file_has_no_tests():
    fields = recipe.canonical(a_recipe())
    asked = json.loads(fields)
    asked["generate"]["input"] = "/questions.csv"
    assert not recipe.validate(asked).runs_answers


class Counting:
    """Notes what is run, and goes away when it has run so much."""

    parallel = 2

    def __init__(self, most=1000):
        self.ran, self.most = [], most

    def run(self, program, limits):
        if len(self.ran) >= self.most:
            raise UnavailableError("gone")
        self.ran.append(program)
        return Executed("passed", str(len(self.ran)))


def many(count):
    rows = [(str(number), TESTS) for number in range(count)]
    return rows, [answered(name, f"x = {name}", f"y = {name}") for name, _ in rows]


def test_a_start_after_an_interruption_goes_on_behind_what_is_settled(monkeypatch):
    monkeypatch.setattr(execution, "CHUNK_ROWS", 4)
    rows, answers = many(10)
    stage, first = prepared(rows), Counting(most=18)
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: first)
    with pytest.raises(UnavailableError):
        execute(stage, answers, "bubblewrap")
    settled = stage.store.read(PART)
    again = Counting()
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: again)
    found = execute(stage.anew(), answers, "bubblewrap")
    assert len(again.ran) == 4  # the last chunk's
    assert len(found) == 10
    assert stage.store.read(PART) == settled
    # A third start opens no sandbox at all.
    monkeypatch.setattr(execution, "open_sandbox", None)
    assert execute(stage.anew(), answers, "bubblewrap") == found


class KilledError(BaseException):
    """As SIGKILL: nothing handles it."""


class Mortal:
    """A store whose caller dies at the call of a certain number, before it or after it."""

    def __init__(self, store, number, *, after):
        self._store, self._left, self._after = store, number, after
        self.uri, self.notes = store.uri, store.notes

    def __getattr__(self, name):
        call = getattr(self._store, name)

        def counted(*arguments, **named):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise KilledError
            try:
                return call(*arguments, **named)
            finally:
                if self._left == 0 and self._after:
                    raise KilledError

        return call if name == "replace" else counted  # heartbeats have a thread of their own


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_call_of_the_store_what_was_settled_stays(monkeypatch, after):
    """Each run of a program says something else here, so a second one would show."""
    monkeypatch.setattr(execution, "CHUNK_ROWS", 2)
    counting = Counting()
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: counting)
    rows, answers = many(6)
    stage, found, number, seen = prepared(rows), None, 1, {}
    while found is None:
        store = Mortal(stage.store, number, after=after)
        again = StageRun(store, stage.run, stage.stage, stage.recipe, stage.upstream)
        try:
            found = execute(again, answers, "bubblewrap")
        except KilledError:
            number += 1
        for key in stage.store.keys("runs/r/evaluate/execution/"):
            data = stage.store.read(key)
            assert seen.setdefault(key, data) == data
    kept = [row for key in sorted(seen) for row in executions.decode(seen[key]).rows]
    assert list(found.values()) == kept
    assert len(seen) == 3
    assert number > 10


class StoppedError(BaseException):
    """As SIGTERM raises."""


def test_a_stop_does_not_wait_for_what_runs(monkeypatch):
    free = threading.Event()

    class Slow(Counting):
        def run(self, program, limits):
            if program.code == "x = 0":
                raise StoppedError
            free.wait(60)
            return super().run(program, limits)

    rows, answers = many(2)
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: Slow())
    since = time.monotonic()
    with pytest.raises(StoppedError):
        execute(prepared(rows), answers, "bubblewrap")
    assert time.monotonic() - since < 10
    free.set()


def test_what_another_worker_has_settled_counts(monkeypatch):
    rows, answers = many(2)
    stage, theirs = prepared(rows), Counting()
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: theirs)
    first = execute(stage, answers, "bubblewrap")
    settled = stage.store.read(PART)
    other = stage.anew()
    monkeypatch.setattr(other, "adopt", _absent_once(other.adopt))
    assert execute(other, answers, "bubblewrap") == first
    assert stage.store.read(PART) == settled


def _absent_once(adopt):
    """As if the other worker came between the look and the write."""
    asked = []

    def adopted(name):
        asked.append(name)
        if len(asked) == 1:
            raise execution.NoSuchObjectError("not yet")
        return adopt(name)

    return adopted


def test_equal_programs_run_once(monkeypatch):
    monkeypatch.setattr(execution, "CHUNK_ROWS", 2)
    rows = [(str(number), TESTS) for number in range(4)]
    counting = Counting()
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: counting)
    answers = [answered(name, RIGHT, WRONG) for name, _ in rows]
    found = execute(prepared(rows), answers, "bubblewrap")
    assert len(counting.ran) == 2
    assert len({row.base for row in found.values()}) == 1


@pytest.mark.parametrize(
    "damage", [b"", b"{}\n", b"\xff", b'{"sandbox": "none"}\n', b'{"sandbox": "a"}\n']
)
def test_outcomes_that_are_not_of_these_rows_are_refused(damage):
    stage = prepared([("1", TESTS)])
    stage.settle("execution/part-00000.jsonl", damage)
    with pytest.raises(MissingInputError, match="not the outcomes that qatune wrote"):
        execute(stage, [answered("1", RIGHT)], "bubblewrap")


def noted(unshut, rows):
    return (
        f"answers to {unshut} of {rows} rows were run without an isolated sandbox: --sandbox none"
    )


@pytest.mark.parametrize(
    ("first", "then", "unshut"), [("none", "bubblewrap", 4), ("bubblewrap", "none", 2)]
)
def test_after_an_interruption_the_note_is_of_what_was_settled(monkeypatch, first, then, unshut):
    """Each of the two starts has run some rows; a third opens nothing and notes the same."""
    monkeypatch.setattr(execution, "CHUNK_ROWS", 4)
    rows, answers = many(6)
    stage = prepared(rows)
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: Counting(most=8))
    with pytest.raises(UnavailableError):
        execute(stage, answers, first)
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: Counting())
    for name in (then, "bubblewrap", "none", "http://nobody:1"):
        again = stage.anew()
        execute(again, answers, name)
        assert again.notes == [noted(unshut, 6)]


def test_an_outcome_of_another_sandbox_is_not_taken_over(monkeypatch):
    """A chunk that says bubblewrap holds nothing that ran without."""
    monkeypatch.setattr(execution, "CHUNK_ROWS", 1)
    stage, answers = prepared([("1", TESTS), ("2", TESTS)]), [answered(n, RIGHT) for n in "12"]
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: Counting())
    execute(stage, answers[:1], "none")
    shut = Counting()
    monkeypatch.setattr(execution, "open_sandbox", lambda *_: shut)
    execute(stage.anew(), answers, "bubblewrap")
    assert len(shut.ran) == 1


def test_none_is_noted_and_a_server_does_the_same():
    stage = prepared([("1", TESTS)])
    assert outcomes(execute(stage, [answered("1", RIGHT)], "none")) == {"1": ("passed", None)}
    assert stage.notes == [noted(1, 1)]
    with serving() as url:
        found = execute(prepared([("1", TESTS)]), [answered("1", WRONG)], url)
    assert outcomes(found) == {"1": ("failed", None)}


@pytest.mark.parametrize(("allowed", "parallel"), [({3}, 1), (set(range(64)), 8)])
def test_as_many_run_at_a_time_as_processors_may_be_used(monkeypatch, allowed, parallel):
    """As under taskset, or in a container on a large node: others' processors do not count."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: allowed)
    assert sandboxes.open_sandbox("none", a_recipe().execute).parallel == parallel


@pytest.fixture
def no_bubblewrap(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_without_bubblewrap_it_says_what_to_do(no_bubblewrap):
    with pytest.raises(MissingInputError, match=r"install bubblewrap .*--sandbox none"):
        sandboxes.look_ahead("bubblewrap", a_recipe().execute)
    sandboxes.look_ahead("none", a_recipe().execute)


def test_where_namespaces_are_forbidden_it_repeats_the_reason(no_bubblewrap):
    (no_bubblewrap / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions' >&2\nexit 1\n")
    (no_bubblewrap / "bwrap").chmod(0o755)
    with pytest.raises(MissingInputError, match=r"bwrap: No permissions.*--sandbox none"):
        sandboxes.look_ahead("bubblewrap", a_recipe().execute)


def test_another_kernel_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(MissingInputError, match="riscv64"):
        sandboxes.look_ahead("none", a_recipe().execute)


def test_an_unknown_sandbox_is_a_usage_error():
    with pytest.raises(UsageError, match="say bubblewrap, none, or"):
        sandboxes.look_ahead("docker", a_recipe().execute)


def test_a_run_is_refused_before_anything_is_done(tmp_path):
    """The command itself, with a PATH without bubblewrap: the rows are not even looked for."""
    given = ("--store", tmp_path / "store", "--set", "data.columns.tests=tests")
    line = fails(66, "run", "demo", *given, env={"PATH": str(tmp_path)})
    assert "--sandbox none" in line
    assert not (tmp_path / "store").exists()


def test_a_run_without_tests_needs_no_sandbox(tmp_path):
    given = ("--store", tmp_path / "store", "--set", "data.source=nowhere.csv")
    assert "sandbox" not in fails(66, "run", "demo", *given, env={"PATH": str(tmp_path)})


def test_a_file_with_tests_through_all_stages(tmp_path):
    from tests.support.tiny import tiny_gpt2

    source, model = tmp_path / "rows.csv", tiny_gpt2(tmp_path / "model", positions=128)
    with source.open("w", newline="") as file:
        rows = [(f"What is {n}?", f"def f(): return {n}", f"assert f() == {n}") for n in range(20)]
        rows[3] = (*rows[3][:2], "")
        csv.writer(file).writerows([("question", "answer", "tests"), *rows])
    fields = {
        "model": {"source": str(model), "dtype": "float32"},
        "data": {"source": str(source), "columns": {"tests": "tests"}, "split": {"test_size": 6}},
        "generate": {"adapter": "none", "max_new_tokens": 4},
    }
    given = tmp_path / "mine.yaml"
    given.write_text(json.dumps({"recipe": fields}))
    done = qatune("run", given, "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    part = tmp_path / "store" / "runs" / "mine" / "evaluate" / "execution" / "part-00000.jsonl"
    chunk = executions.decode(part.read_bytes())
    found = chunk.rows
    assert len(found) in {5, 6}
    assert {row.base.outcome for row in found} <= {"error", "failed", "no_code"}
    verified = qatune("verify", "mine", "--store", tmp_path / "store")
    assert f"{len(found)} executed" in verified.stdout
    again = replace(found[0], base=Executed("passed", ""))
    part.chmod(0o644)
    part.write_bytes(executions.encode(replace(chunk, rows=[again, *found[1:]])))
    assert "part-00000.jsonl" in fails(66, "verify", "mine", "--store", tmp_path / "store")
