"""A shipped recipe on a cluster, as its file stands."""

from tests.support import e2e

RECIPE = e2e.ROOT / "helm" / "recipes" / "demo.yaml"


def test_a_shipped_recipe_is_installed_as_it_is(bucket, namespace, tmp_path):
    """Beside it stand the cluster's own values, where its inputs lie, and how little is enough."""
    values = e2e.values(bucket)
    del values["recipe"]
    namespace.install(
        "demo",
        RECIPE,
        e2e.written(tmp_path, values),
        f"recipe.model.source={bucket.uri}/model",
        f"recipe.data.source={bucket.uri}/rows.csv",
        "recipe.data.columns.id=task_id",
        "recipe.train.max_steps=4",
        "recipe.generate.max_new_tokens=8",
    )
    assert namespace.ends("demo", "coordinator") == "Complete"
    assert bucket.manifest("demo", "train").counters["steps"] == 4
    assert bucket.manifest("demo", "evaluate").counters["rows"] == 64
