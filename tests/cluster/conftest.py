import json

import pytest
from tests.support import cluster, finished_run

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
