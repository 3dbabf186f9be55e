"""The commands that know the cluster. Heavy modules are imported by the command that needs them."""

from typing import TYPE_CHECKING

import click

from qatune.cluster.jobs import RELEASED, SANDBOX
from qatune.errors import MissingInputError, QatuneError, UsageError
from qatune.options import run_argument, run_option, store_option

if TYPE_CHECKING:
    from qatune.cluster.status import Status


def _stage_jobs(_context: object, _parameter: object, given: tuple[str, ...]) -> dict[str, str]:
    """Read `stage=job` as often as it is given; the order is the stages' own."""
    named = {}
    for pair in given:
        stage, _, job = pair.partition("=")
        if stage not in RELEASED or not job:
            raise UsageError(f"--job {pair}: write it as STAGE=JOB, as in train=demo-train")
        named[stage] = job
    return {stage: named[stage] for stage in RELEASED if stage in named}


@click.command()
@run_option
@click.option("--name", required=True, help="This Job's own name; its Event is called the same.")
@click.option(
    "--job",
    "names",
    multiple=True,
    required=True,
    metavar="STAGE=JOB",
    callback=_stage_jobs,
    help="The Job of a stage.",
)
@click.option("--sandbox", help="Where the sandbox of --job execute=... is reached.")
@click.option("--queue", help="Kueue's queue that the Jobs are released to.")
@click.option("--namespace", "-n", envvar="QATUNE_NAMESPACE", help="Where the Jobs are.")
@store_option
@click.option(
    "--recipe", "recipe_name", envvar="QATUNE_RECIPE", required=True, help="The run's recipe."
)
def coordinate(
    *,
    run_name: str,
    name: str,
    names: dict[str, str],
    sandbox: str | None,
    queue: str | None,
    namespace: str | None,
    store_uri: str,
    recipe_name: str,
) -> None:
    """Release the stages' Jobs one after the other (what the coordinator's pod calls)."""
    from qatune import recipe
    from qatune.cluster.client import connect
    from qatune.cluster.coordinator import Coordinator
    from qatune.store.opening import open_store

    if (sandbox is None) != (SANDBOX not in names):
        raise UsageError("--sandbox is where the Job of --job execute=... is reached: give both")
    ours, store = recipe.load(recipe_name), open_store(store_uri)
    Coordinator(
        connect(namespace), store, run_name, ours, names, name, queue=queue, sandbox=sandbox
    ).coordinate()


_namespace_option = click.option(
    "--namespace", "-n", envvar="QATUNE_NAMESPACE", help="Where the run is [default: kubectl's]."
)
_context_option = click.option("--context", help="Context of the kubeconfig [default: kubectl's].")


@click.command()
@run_argument
@_namespace_option
@_context_option
def explain(run_name: str, namespace: str | None, context: str | None) -> None:
    """Say what RUN is doing in the cluster, or why it is not running."""
    from qatune.cluster import client, diagnosis, facts

    click.echo(diagnosis.explain(facts.gather(client.connect(namespace, context), run_name)))


@click.command()
@run_argument
@_namespace_option
@_context_option
@click.option(
    "--store",
    "store_uri",
    envvar="QATUNE_STORE",
    help="Folder or s3://bucket/prefix [default: the run's own].",
)
@click.option(
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people, or for scripts.",
)
def status(
    run_name: str, namespace: str | None, context: str | None, store_uri: str | None, output: str
) -> None:
    """Show where RUN is: its stages, their pods, and how far they are."""
    from qatune.cluster import status as found

    where = _status(run_name, namespace, context, store_uri)
    if output == "json":
        click.echo(where.as_json())
    else:
        found.show(where)


def _status(
    run_name: str, namespace: str | None, context: str | None, store_uri: str | None
) -> "Status":
    """Ask the cluster and the store; the store alone where there is no cluster or no such run."""
    from qatune.cluster import client, facts, status
    from qatune.store.opening import open_store

    try:
        known = facts.gather(client.connect(namespace, context), run_name)
    except MissingInputError as error:
        if store_uri is None:
            raise
        return status.from_store(open_store(store_uri), run_name, str(error))
    uri = store_uri or next((job.store for job in known.stages if job.store), None)
    try:
        store = open_store(uri) if uri else None
    except QatuneError as error:
        return status.from_cluster(known, None, [f"no progress: {error}"])
    return status.from_cluster(known, store)
