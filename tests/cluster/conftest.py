import json

import pytest
from tests.support import cluster, finished_run, group
from tests.support.cluster import RUN, STAGES

from qatune.store.folder import FolderStore


@pytest.fixture(scope="session")
def real_cluster():
    cluster.require()


@pytest.fixture(scope="module")
def space(real_cluster, request):
    name = request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_").replace("_", "-")
    with cluster.namespace(f"qatune-{name}") as made:
        yield made


@pytest.fixture(scope="session")
def finished_store(tmp_path_factory):
    """A store in which every stage of the run `finished` is complete."""
    store = FolderStore(str(tmp_path_factory.mktemp("store")))
    return finished_run.finished(store=store)


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    path.write_text(json.dumps({"recipe": finished_run.recipe().model_dump(mode="json")}))
    return path


@pytest.fixture
def deploy(space, tmp_path):
    """Create a release's Jobs and its coordinator's account; return that one's kubeconfig."""

    def deployed(release, *made):
        space.apply(*cluster.coordinator_rights(release, made), *made)
        return cluster.kubeconfig_of(space, f"{release}-coordinator", tmp_path)

    return deployed


@pytest.fixture
def command(finished_store, recipe_file):
    """Start the real command; it reads manifests of a finished run, so Jobs alone decide."""

    def started(release, kubeconfig, *more, store=None, stages=STAGES):
        arguments = [
            *("coordinate", "--run", RUN, "--name", f"{release}-coordinator"),
            *(f"--job={stage}={release}-{stage}" for stage in stages),
            *("--store", (store or finished_store).uri, "--recipe", str(recipe_file), *more),
        ]
        return group.started([str(group.QATUNE), *arguments], KUBECONFIG=str(kubeconfig))

    return started
