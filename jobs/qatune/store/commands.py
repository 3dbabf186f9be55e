"""The commands that ask the store. Heavy modules are imported by the command that needs them."""

import time

import click

from qatune import STAGES
from qatune.options import run_argument, store_option


@click.command()
@run_argument
@store_option
def verify(run_name: str, store_uri: str) -> None:
    """Recompute every hash of RUN and its ledger, from the store alone."""
    from qatune.store.opening import open_store
    from qatune.store.verification import megabytes
    from qatune.store.verification import verify as verified

    start, objects, size, whole = time.monotonic(), 0, 0, "as written"
    for stage, found in verified(open_store(store_uri), run_name):
        if found is None:
            click.echo(f"{stage}: not complete")
            whole = "as written, where it is complete"
            continue
        click.echo(f"{stage}: {found}: as written")
        objects, size = objects + found.objects, size + found.size
    rate = size / max(time.monotonic() - start, 1e-9)
    click.echo(
        f"run {run_name!r} is {whole}: {objects:,} objects, {megabytes(size)}, {megabytes(rate)}/s"
    )


@click.command()
@click.argument("stage", type=click.Choice(STAGES), required=False)
@store_option
def doctor(store_uri: str, stage: str | None) -> None:
    """Try whether the store works from here, and (with STAGE) whether its libraries load."""
    import importlib

    from qatune.store.opening import open_store
    from qatune.store.probe import probe

    for line in probe(open_store(store_uri)):
        click.echo(line)
    if stage:
        importlib.import_module(f"qatune.stages.{stage}")
        click.echo(f"libraries of {stage}: load")
