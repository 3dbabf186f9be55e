"""The commands that know the cluster. Heavy modules are imported by the command that needs them."""

import click

from qatune.errors import UsageError
from qatune.options import run_option, store_option

STAGES = ("preprocess", "train", "generate", "evaluate")


def _stage_jobs(_context: object, _parameter: object, given: tuple[str, ...]) -> dict[str, str]:
    """Read `stage=job` as often as it is given; the order is the stages' own."""
    named = {}
    for pair in given:
        stage, _, job = pair.partition("=")
        if stage not in STAGES or not job:
            raise UsageError(f"--job {pair}: write it as STAGE=JOB, as in train=demo-train")
        named[stage] = job
    return {stage: named[stage] for stage in STAGES if stage in named}


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

    ours, store = recipe.load(recipe_name), open_store(store_uri)
    Coordinator(connect(namespace), store, run_name, ours, names, name, queue).coordinate()
