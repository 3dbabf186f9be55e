"""The command that the sandbox's pod calls."""

import click

from qatune.execution import MOST_PARALLEL


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8021, show_default=True, help="Port of it."
)
@click.option(
    "--parallel",
    type=click.IntRange(1, MOST_PARALLEL),
    default=2,
    show_default=True,
    help="Programs at a time; each may take the recipe's execute.memory_mb.",
)
def sandbox(host: str, port: int, parallel: int) -> None:
    """Run programs for an evaluate elsewhere (what the sandbox's pod calls).

    They are confined to computing, but see what this command sees: start it where there is nothing.
    """
    from qatune.execution.server import Server

    Server(host, port, parallel).serve()
