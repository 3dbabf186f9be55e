"""The command line. Heavy modules are imported by the command that needs them."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from qatune import BEGAN, STAGES, __version__, endings
from qatune.cluster import commands as cluster_commands
from qatune.errors import QatuneError, UsageError, one_line
from qatune.execution import commands as execution_commands
from qatune.options import (
    checked_name,
    new_run_option,
    run_argument,
    sandbox_option,
    set_option,
    stage_options,
    store_option,
)
from qatune.report.commands import report
from qatune.store import commands as store_commands

if TYPE_CHECKING:
    from qatune.config import Recipe
    from qatune.launch import Group, Place
    from qatune.store.artifacts import StageRun
    from qatune.store.objects import Store


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qatune")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug lines.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Fine-tune a small language model on questions and answers, and measure whether it helped."""
    context.obj = {"debug": debug}


@cli.command()
@click.argument("recipe_name", metavar="RECIPE")
@store_option
@new_run_option
@set_option
@sandbox_option
def run(
    recipe_name: str,
    store_uri: str,
    run_name: str | None,
    overrides: tuple[str, ...],
    sandbox: str,
) -> None:
    """Run all stages of RECIPE here: a shipped one (demo, ...) or a file."""
    from pathlib import Path

    from qatune.importing import check_engine, check_trackers
    from qatune.recipe import load_values
    from qatune.store import artifacts

    values = load_values(recipe_name, overrides)
    recipe = values.recipe
    name = run_name or values.run.name or checked_name(Path(recipe_name).stem)
    store = _store(store_uri)
    # An adapter from elsewhere, or none, needs no training.
    stages = [stage for stage in STAGES if stage != "train" or recipe.generate.adapter == "train"]
    artifacts.check_recipe(store, name, recipe)
    if not artifacts.is_complete(store, name, "generate", recipe):
        check_engine(recipe.generate.engine)  # before hours of training
    if "train" in stages and not artifacts.is_complete(store, name, "train", recipe):
        check_trackers(recipe.train.report_to)
    if recipe.runs_answers and not artifacts.is_complete(store, name, "evaluate", recipe):
        from qatune.execution.sandboxes import look_ahead

        look_ahead(sandbox, recipe.execute)
    ran, since = False, BEGAN
    for stage in stages:
        given: dict[str, Any] = {"sandbox": sandbox} if stage == "evaluate" else {}
        ran |= _run_stage(stage, store, name, recipe, since=since, **given)
        since = time.monotonic()
    if not ran:
        click.echo(f"run {name!r} is complete already: nothing to do")
        click.echo(f"report: {store.uri}/runs/{name}/evaluate/report.html")
        return
    from qatune.report.summary import print_summary

    print_summary(store, name)


@cli.command()
@stage_options
def preprocess(**given: Any) -> None:
    """Read, check, split and tokenize the rows."""
    _start_stage("preprocess", **given)


@cli.command()
@stage_options
@sandbox_option
def evaluate(**given: Any) -> None:
    """Measure the answers and write the report."""
    _start_stage("evaluate", **given)


@cli.command()
@stage_options
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    default=1,
    envvar="QATUNE_NODES",
    show_default=True,
    help="Machines that train together.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    envvar="QATUNE_PROCESSES",
    show_default=True,
    help="Processes on each, one a GPU. All take a batch of their own at a step.",
)
@click.option(
    "--node-rank",
    type=click.IntRange(min=0),
    default=0,
    envvar="JOB_COMPLETION_INDEX",
    show_default=True,
    help="Which of the machines this one is, from 0.",
)
@click.option("--master-addr", envvar="MASTER_ADDR", help="Where the first machine is.")
@click.option(
    "--master-port",
    type=click.IntRange(min=1, max=65535),
    envvar="MASTER_PORT",
    help="A port of it that the others reach.",
)
@click.option(
    "--meeting-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=900,
    envvar="QATUNE_MEETING_TIMEOUT",
    show_default=True,
    help="Seconds to wait until all processes are there.",
)
@click.pass_context
def train(
    context: click.Context,
    run_name: str,
    store_uri: str,
    recipe_name: str | None,
    overrides: tuple[str, ...],
    *,
    nodes: int,
    processes: int,
    node_rank: int,
    master_addr: str | None,
    master_port: int | None,
    meeting_timeout: float,
) -> None:
    """Train the adapter, or go on from its last checkpoint."""
    from qatune import launch

    given: dict[str, Any] = {}
    if place := launch.own_place(meeting_timeout):
        _be_one_of(place, debug=context.obj["debug"])
        given["place"] = place
    elif nodes * processes > 1:
        group = launch.Group(nodes, processes, node_rank, master_addr, master_port)
        given["work"] = lambda _: _train_together(group)
    _start_stage("train", run_name, store_uri, recipe_name, overrides, **given)


def _be_one_of(place: "Place", *, debug: bool) -> None:
    """Let the first process speak for all, but for warnings."""
    import structlog

    from qatune import log

    log.configure(debug=debug, quiet=place.rank > 0)
    structlog.contextvars.bind_contextvars(process=place.rank)


def _train_together(group: "Group") -> None:
    from qatune.launch import train_together

    code, message = train_together(group, sys.argv[1:])
    if code:
        raise click.exceptions.Exit(_fail(message, code))


@cli.command()
@stage_options
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    default=1,
    envvar="QATUNE_SHARDS",
    show_default=True,
    help="Workers that divide the questions among them.",
)
@click.option(
    "--shard",
    type=click.IntRange(min=0),
    default=0,
    envvar="JOB_COMPLETION_INDEX",
    show_default=True,
    help="Which of them this one is, from 0.",
)
def generate(
    run_name: str,
    store_uri: str,
    recipe_name: str | None,
    overrides: tuple[str, ...],
    *,
    shards: int,
    shard: int,
) -> None:
    """Answer the held-out questions with base and adapter."""
    if shard >= shards:
        raise UsageError(f"--shard {shard}: of {shards} shards the last is {shards - 1}")
    given = {"shard": shard, "shards": shards}
    _start_stage("generate", run_name, store_uri, recipe_name, overrides, **given)


@cli.command()
@run_argument
@click.argument("question", required=False)
@store_option
def ask(run_name: str, question: str | None, store_uri: str) -> None:
    """Let base and adapter of RUN answer QUESTION, side by side."""
    from qatune.importing import import_stage

    import_stage("ask").answer(_store(store_uri), run_name, question)


cli.add_command(report)
cli.add_command(cluster_commands.coordinate)
cli.add_command(cluster_commands.explain)
cli.add_command(cluster_commands.status)
cli.add_command(execution_commands.sandbox)
cli.add_command(store_commands.doctor)
cli.add_command(store_commands.verify)


def _recipe(name: str, overrides: tuple[str, ...]) -> "Recipe":
    from qatune import recipe

    return recipe.load(name, overrides)


def _store(uri: str) -> "Store":
    from qatune.store.opening import open_store

    return open_store(uri)


def _start_stage(
    stage: str,
    run_name: str,
    store_uri: str,
    recipe_name: str | None,
    overrides: tuple[str, ...],
    **given: Any,
) -> None:
    """Run one stage by itself, with the recipe that is given or the run's own."""
    from qatune.store import artifacts

    store = _store(store_uri)
    if recipe_name is None and overrides:
        raise UsageError("--set changes a recipe that is given: add --recipe")
    recipe = (
        _recipe(recipe_name, overrides) if recipe_name else artifacts.bound_recipe(store, run_name)
    )
    if not _run_stage(stage, store, run_name, recipe, **given):
        click.echo(f"{stage} of run {run_name!r} is complete already: nothing to do")


def _run_stage(
    stage: str,
    store: "Store",
    run_name: str,
    recipe: "Recipe",
    *,
    since: float = BEGAN,
    work: Callable[["StageRun"], None] | None = None,
    **given: Any,
) -> bool:
    """Run a stage unless its manifest says that it is complete; tell whether it ran.

    It starts at `since` (monotonic seconds). `work` does it in place of the stage's own `run`;
    `given` is what that takes besides.
    """
    import structlog

    from qatune.importing import import_stage
    from qatune.store import artifacts

    artifacts.check_recipe(store, run_name, recipe)
    if artifacts.is_complete(store, run_name, stage, recipe):
        return False
    with structlog.contextvars.bound_contextvars(stage=stage):
        stage_run = artifacts.StageRun.open(store, run_name, stage, recipe)
        if work:
            work(stage_run)
            return True
        needs_base = stage in {"train", "generate"}
        with stage_run.base_on_its_way() if needs_base else nullcontext():
            module = import_stage(stage)
            stage_run.seconds["starting"] = time.monotonic() - since
            module.run(stage_run, **given)
    return True


def main() -> None:
    """Run the command line; turn every failure into one line and its exit code."""
    debug = "--debug" in sys.argv[1:]
    if not {"--help", "-h", "--version"} & set(sys.argv[1:]):
        from qatune import log

        log.configure(debug=debug)
    endings.heed_signals()
    try:
        code: Any = cli(standalone_mode=False)
    except click.ClickException as error:
        code = _fail(error.format_message(), UsageError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = _fail("interrupted; run the same command again", endings.INTERRUPTED_BY_HAND)
    except endings.TerminatedError:
        code = _fail("SIGTERM; run the same command again", endings.TERMINATED)
    except QatuneError as error:
        _show_traceback(debug)
        code = _fail(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  # what nobody foresaw ends in one line, too
        _show_traceback(debug)
        code = _fail(f"a bug: {type(error).__name__}: {error} (qatune --debug ... shows where)", 70)
    endings.leave(code if isinstance(code, int) else 0)


def _show_traceback(debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()


def _fail(message: str, code: int) -> int:
    """Say what happened where the user looks: the terminal, and the pod's termination message.

    One of several processes tells it whoever started it, who says it once.
    """
    import os
    from pathlib import Path

    from qatune.launch import LAST_WORDS

    message = one_line(message)
    if last_words := os.environ.get(LAST_WORDS):
        Path(last_words).write_text(message, encoding="utf-8")
        return code
    click.echo(f"qatune: {message}", err=True)
    termination = Path(os.environ.get("QATUNE_TERMINATION_LOG", "/dev/termination-log"))
    if termination.is_file():
        termination.write_text(f"{code}: {message}\n", encoding="utf-8")
    return code
