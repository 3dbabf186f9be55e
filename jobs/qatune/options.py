"""What several commands take from the command line and the environment."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from qatune.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def checked_name(name: str) -> str:
    """Check that a name can be part of a key, a file name and a Kubernetes label."""
    if not _RUN_NAME.fullmatch(name):
        raise UsageError(
            f"run name {name!r}: a run's name is of up to 63 letters, digits, dots, dashes and "
            "underscores, the first a letter or digit"
        )
    return name


def _checked(_context: Any, _parameter: Any, name: str | None) -> str | None:
    return name if name is None else checked_name(name)


run_argument = click.argument("run_name", metavar="RUN", callback=_checked)
new_run_option = click.option(
    "--run",
    "run_name",
    callback=_checked,
    help="Name of the run in the store [default: the recipe's].",
)
run_option = click.option(
    "--run", "run_name", required=True, callback=_checked, help="Name of the run in the store."
)
store_option = click.option(
    "--store",
    "store_uri",
    default="./qatune-store",
    envvar="QATUNE_STORE",
    show_default=True,
    help="Folder or s3://bucket/prefix.",
)
recipe_option = click.option(
    "--recipe",
    "recipe_name",
    envvar="QATUNE_RECIPE",
    help="Recipe of a new run; a run that exists has its own.",
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Change a field of the recipe."
)
sandbox_option = click.option(
    "--sandbox",
    default="bubblewrap",
    envvar="QATUNE_SANDBOX",
    show_default=True,
    help="Where answers are run if the recipe names data.columns.tests: bubblewrap, "
    "http://host:port of a qatune sandbox, or none: here, where they see what you see.",
)


def stage_options(command: Command) -> Command:
    """Give a command what every stage takes."""
    for option in (set_option, recipe_option, store_option, run_option):
        command = option(command)
    return command
