"""The command line: quick to answer, one line for each failure, the right exit code."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.support.qatune_command import fails, qatune

from qatune import cli
from qatune.errors import (
    BadDataError,
    BadRecipeError,
    InterruptedRunError,
    MissingInputError,
    NotAllowedError,
    QatuneError,
    UnavailableError,
    UsageError,
)


def test_exit_codes_are_the_contract():
    codes = {
        UsageError: 64,
        BadDataError: 65,
        MissingInputError: 66,
        UnavailableError: 69,
        QatuneError: 70,
        InterruptedRunError: 75,
        NotAllowedError: 77,
        BadRecipeError: 78,
    }
    assert {error: error.exit_code for error in codes} == codes


def imported_by(code):
    program = f"{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


HEAVY = {"torch", "transformers", "boto3", "kubernetes", "pydantic", "pyarrow", "matplotlib"}


def test_help_imports_nothing_heavy():
    assert not HEAVY & imported_by("from qatune.cli import cli")


def test_looking_at_a_finished_run_needs_no_torch():
    modules = imported_by("import qatune.recipe, qatune.store.artifacts, qatune.store.opening")
    assert not {"torch", "transformers", "boto3", "kubernetes", "matplotlib"} & modules


def test_help_names_every_stage():
    done = qatune("--help")
    assert done.returncode == 0
    for command in ("run", "preprocess", "train", "generate", "evaluate", "report", "ask"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("code", "arguments", "part"),
    [
        (64, ["rum"], "No such command"),
        (64, ["run"], "Missing argument"),
        (64, ["train", "--run", "x", "--set", "train.seed=1"], "add --recipe"),
        (66, ["run", "demmo"], "no such file"),
        (66, ["train", "--run", "none"], "no run 'none'"),
        (66, ["report", "none"], "none"),
        (66, ["ask", "none", "Why?"], "none"),
        (78, ["run", "demo", "--set", "train.lora.rank=4"], "did you mean r?"),
        (64, ["run", "demo", "--store", "s3://"], "bucket"),
        (64, ["run", "demo", "--run", ""], "a run's name is"),
        (64, ["run", "demo", "--run", "a/b"], "a run's name is"),
        (64, ["train", "--run", "../up"], "a run's name is"),
        (64, ["report", "x" * 64], "a run's name is"),
        (66, ["run", "demo", "--set", "data.source=~no-such-user/x.csv"], "no such user"),
    ],
)
def test_one_line_and_the_right_code(code, arguments, part, tmp_path):
    store = [] if "--store" in arguments or arguments in (["rum"], ["run"]) else [
        "--store", str(tmp_path)
    ]  # fmt: skip
    assert part in fails(code, *arguments, *store)


def test_the_pods_termination_message_says_what_happened(tmp_path):
    message = tmp_path / "termination-log"
    message.touch()
    fails(66, "run", "demmo", env={"QATUNE_TERMINATION_LOG": str(message)})
    assert message.read_text().startswith("66: recipe 'demmo': no such file")


def test_debug_shows_the_traceback():
    done = qatune("--debug", "run", "demmo")
    assert "Traceback" in done.stderr
    assert done.returncode == 66
    assert done.stderr.splitlines()[-1].startswith("qatune: recipe 'demmo': no such file")


@pytest.fixture
def _handlers():
    """Python's own signal handlers, also in a background job, where SIGINT is ignored."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_with_nothing_to_save(monkeypatch, capsys, number, code):
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(cli, "_store", lambda *_: os.kill(os.getpid(), number))
    monkeypatch.setattr(sys, "argv", ["qatune", "run", "demo"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert "run the same command again" in capsys.readouterr().err


class KilledWhileDestroyed:
    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_python_drops_is_heeded_all_the_same(monkeypatch, number, code):
    def killed(*_):
        KilledWhileDestroyed(number)
        time.sleep(10)

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(cli, "_store", killed)
    monkeypatch.setattr(sys, "argv", ["qatune", "run", "demo"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code


def test_a_message_is_one_line_whatever_it_quotes(monkeypatch, capsys):
    def fails_with(*_):
        raise QatuneError("column 'a\nb\x1b[2J' is odd")

    monkeypatch.setattr(cli, "_store", fails_with)
    monkeypatch.setattr(sys, "argv", ["qatune", "run", "demo"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "qatune: column 'a b\\x1b[2J' is odd\n"
