"""What the chart accepts, and what it says of what it does not."""

import json

import pytest
import yaml
from tests.support.chart import (
    CHART,
    NEEDED,
    RECIPE,
    STAGES,
    container,
    helm,
    of,
    refusal,
    render,
    sets,
)
from tests.support.qatune_command import qatune

from qatune import recipe
from qatune.values import Values


def bound_recipe(objects):
    (found,) = [each for each in objects if each["metadata"]["name"].startswith("run-1-recipe-")]
    assert found["immutable"] is True
    return found["data"]["recipe.json"]


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_recipe_reaches_the_stages_as_qatune_run_reads_it(name, tmp_path):
    path = recipe.shipped()[name]
    mounted = tmp_path / "recipe.json"
    mounted.write_text(bound_recipe(render(recipe=path)))
    changes = [each.removeprefix("recipe.") for each in NEEDED if each.startswith("recipe.")]
    assert recipe.load(str(mounted)) == recipe.load(name, changes)


@pytest.mark.parametrize("written", ["2e-4", "0.0002", "2E-04"])
def test_numbers_as_set_writes_them(written, tmp_path):
    mounted = tmp_path / "recipe.json"
    mounted.write_text(bound_recipe(render(f"recipe.train.learning_rate={written}")))
    assert recipe.load(str(mounted)).train.learning_rate == 2e-4


def test_a_million_stays_a_whole_number(tmp_path):
    values = tmp_path / "values.yaml"
    values.write_text(RECIPE.read_text() + "\n    max_steps: 1000000\n")
    text = bound_recipe(render(recipe=values))
    mounted = tmp_path / "recipe.json"
    mounted.write_text(text)
    assert recipe.load(str(mounted)).train.max_steps == 1_000_000


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("recipe.train.lora.rank=8", "at '/recipe/train/lora': additional properties 'rank'"),
        ("stages.train.gpus=2", "at '/stages/train': additional properties 'gpus'"),
        ("shards=3", "additional properties 'shards' not allowed"),
        ("train.nodes=0", "at '/train/nodes': minimum: got 0, want 1"),
        ("generate.shards=0", "at '/generate/shards': minimum: got 0, want 1"),
        ("store.uri=s3://", "at '/store/uri': 's3://' does not match pattern"),
        ("store.uri=bucket/prefix", "at '/store/uri': 'bucket/prefix' does not match pattern"),
        ("store.uri=null", "at '/store"),
        ("run.name=no spaces", "at '/run/name'"),
        ("run.attempt=0", "at '/run/attempt': minimum: got 0, want 1"),
        ("recipe.data.split.method=random", "at '/recipe/data/split/method'"),
        ("stages.train.gpu.count=-1", "at '/stages/train/gpu/count': minimum: got -1, want 0"),
        ("stages.train.tolerations[0].efect=NoSchedule", "additional properties 'efect'"),
        ("stages.train.resources.limits.memory=8 GB", "'8 GB' does not match pattern"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
        ("image.registry=https://here", "at '/image/registry'"),
        ("image.tag=a b", "at '/image/tag'"),
        ("stages.train.resources.limits.memory=1ki", "'1ki' does not match pattern"),
        ("stages.train.resources.limits.memory=-1", "minimum: got -1, want 0"),
        ("stages.train.resources.limits.memory=-1.5", "'-1.5' does not match pattern"),
        ("stages.train.resources.limits.memory=1.2.3", "'1.2.3' does not match pattern"),
        ("stages.train.shmSize=-1", "minimum: got -1, want 0"),
        ("stages.train.env[0].name=A B", "at '/stages/train/env/0/name': 'A B' does not match"),
        ("stages.train.env[0].name=2A", "at '/stages/train/env/0/name': '2A' does not match"),
        ("stages.train.gpu.resource=gpu", "at '/stages/train/gpu/resource': 'gpu' does not match"),
        ("stages.train.gpu.resource=nvidia.com/", "'nvidia.com/' does not match pattern"),
        ("kueue.queue=" + "q" * 64, "at '/kueue/queue': maxLength: got 64, want 63"),
        ("store.endpoint=https://key:secret@minio:9000", "at '/store/endpoint'"),
        ("store.endpoint=https://key:sec/ret@minio:9000", "at '/store/endpoint'"),
        ("hub.endpoint=https://token@hub", "at '/hub/endpoint'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(setting, named):
    assert named in refusal(setting)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("stages.train=null", "at '/stages': missing property 'train'"),
        ("stages.train.backoffLimit=null", "at '/stages/train': missing property 'backoffLimit'"),
        ("run.attempt=null", "at '/run': missing property 'attempt'"),
        ("train.nodes=null", "at '/train': missing property 'nodes'"),
        ("kueue=null", "at '': missing property 'kueue'"),
    ],
)
def test_what_is_taken_away_is_named(setting, named):
    assert named in refusal(setting)


@pytest.mark.parametrize(
    "setting", ["stages.train.shmSize=null", "run.name=null", "image.tag=", "image.registry="]
)
def test_what_may_be_nothing_may_be_taken_away(setting):
    assert of(render(setting), "Job", "train")


@pytest.mark.parametrize("component", ["train", "coordinator"])
@pytest.mark.parametrize("label", ["app.kubernetes.io/component", "qatune/run"])
def test_a_label_that_policies_select_by_is_not_given_away(label, component):
    name = label.replace(".", "\\.")
    said = refusal(f"stages.{component}.podLabels.{name}=x")
    assert f"stages.{component}.podLabels: {label} is the chart's own" in said


def test_pods_of_all_components_take_other_labels_and_annotations():
    where = [f"stages.{component}" for component in ("train", "coordinator")]
    jobs = of(render(*(f"{each}.podLabels.team=ml" for each in where),
                     *(f"{each}.podAnnotations.note=x" for each in where)), "Job")  # fmt: skip
    for component in ("train", "coordinator"):
        metadata = jobs[component]["spec"]["template"]["metadata"]
        assert metadata["labels"]["team"] == "ml"
        assert metadata["labels"]["app.kubernetes.io/component"] == component
        assert metadata["annotations"] == {"note": "x"}


@pytest.mark.parametrize(
    ("what", "requested", "limit"),
    [
        ("memory", "9Gi", "8Gi"),
        ("memory", "9Gi", "8589934592"),
        ("memory", "9G", "8Gi"),
        ("cpu", "1", "900m"),
        ("cpu", "1.5", "1"),
        ("ephemeral-storage", "2T", "1Ti"),
        ("memory", "1Ki", "0"),
    ],
)
def test_more_than_the_limit_is_not_requested(what, requested, limit):
    where = "stages.preprocess.resources"
    asked = f"{where}.requests.{what}={requested}"
    said = refusal(asked, f"{where}.limits.{what}={limit}")
    assert f"{where}: {requested} {what} are requested, more than the limit of {limit}" in said
    assert render(asked, f"{where}.limits.{what}={requested}")


@pytest.mark.parametrize(("requested", "limit"), [("8Gi", "8589934592"), ("500m", "0.5")])
def test_two_ways_to_write_an_amount_are_equal(requested, limit):
    where = "stages.preprocess.resources"
    assert render(f"{where}.requests.memory={requested}", f"{where}.limits.memory={limit}")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        (
            "train.env[0].name=QATUNE_STORE",
            "stages.train.env: QATUNE_STORE is set already, by the chart",
        ),
        (
            "train.env[0].name=QATUNE_NODES",
            "stages.train.env: QATUNE_NODES is set already, by the chart",
        ),
        (
            "coordinator.env[0].name=QATUNE_NAMESPACE",
            "stages.coordinator.env: QATUNE_NAMESPACE is set already, by the chart",
        ),
    ],
)
def test_a_variable_of_the_chart_s_is_not_given_away(setting, named):
    assert named in refusal(f"stages.{setting}")


def test_a_variable_is_given_once_and_in_one_way():
    here = "stages.train.env"
    twice = (f"{here}[0].name=A", f"{here}[0].value=x", f"{here}[1].name=A")
    assert f"{here}: A is set already" in refusal(*twice)
    both = (f"{here}[0].name=A", f"{here}[0].value=x", f"{here}[0].valueFrom.fieldRef.fieldPath=x")
    assert f"{here}: A has a value and a valueFrom" in refusal(*both)


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "TOKEN", "PGPASSWORD"]
)
def test_a_secret_does_not_stand_in_the_values(name):
    given = f"stages.train.env[0].name={name}"
    assert f"stages.train.env: {name} looks like a secret" in refusal(
        given, "stages.train.env[0].value=hf_abc"
    )
    source = "stages.train.env[0].valueFrom.secretKeyRef"
    assert render(given, f"{source}.name=keys", f"{source}.key=k")


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "SORT_KEY", "HF_HUB_DISABLE_IMPLICIT_TOKEN"]
)
def test_what_only_sounds_like_a_secret_is_taken(name):
    assert render(f"stages.train.env[0].name={name}", "stages.train.env[0].value=no")


def test_amounts_may_be_numbers(tmp_path):
    values = tmp_path / "values.yaml"
    resources = {"requests": {"cpu": 0.5}, "limits": {"cpu": 1}}
    recipe = yaml.safe_load(RECIPE.read_text())
    values.write_text(yaml.safe_dump(recipe | {"stages": {"train": {"resources": resources}}}))
    train = of(render(recipe=values), "Job", "train")
    assert container(train)["resources"]["requests"]["cpu"] == 0.5


def test_a_run_without_stages_is_refused():
    none = [f"stages.{stage}.enabled=false" for stage in STAGES]
    assert "no stage is left to run" in refusal(*none)


def test_without_a_recipe_or_a_store_it_says_which_is_missing():
    said = helm("template", "run-1", CHART, code=1)
    assert "missing properties 'model', 'data'" in said
    assert "at '/store': missing property 'uri'" in said


def test_a_values_file_with_everything_is_a_recipe_file(tmp_path):
    """The same file for helm and for qatune run, which names the run as helm does."""
    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\n")
    values = {
        "run": {"name": "shared", "note": "first try"},
        "recipe": {"model": {"source": str(tmp_path)}, "data": {"source": str(rows)}},
        "store": {"uri": "s3://bucket/prefix", "secret": "s3-keys"},
        "stages": {"train": {"gpu": {"count": 2}, "shmSize": "2Gi"}},
        "generate": {"shards": 4},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    assert of(render(recipe=path), "Job", "train")["metadata"]["labels"]["qatune/run"] == "shared"
    said = qatune("run", path, "--store", tmp_path / "store").stderr
    assert "no config.json, so this is no model" in said
    assert Values.model_validate(values).run.name == "shared"


def test_a_wrong_value_for_the_cluster_is_said_by_qatune_run_as_well(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.read_text() + "\nstages: {train: {gpus: 2}}\n")
    done = qatune("run", path)
    assert done.returncode == 78
    assert done.stderr.strip() == "qatune: stages.train.gpus: unknown field; did you mean gpu?"


def test_lint():
    said = helm("lint", CHART, "-f", RECIPE, *sets(), "--strict")
    assert "0 chart(s) failed" in said


def test_the_schema_knows_every_default():
    """values.yaml holds all that the schema allows, so that it can be read as the reference."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) == set(values)
    stage = schema["$defs"]["Stage"]["properties"]
    assert all(set(values["stages"][name]) == set(stage) for name in ("train", "evaluate"))
