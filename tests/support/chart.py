"""The chart as Helm renders it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "qatune"
RECIPE = CHART.parent / "recipes" / "llama-3.2-1b.yaml"
# What a shipped recipe lacks on a cluster: the bucket, and what pods can read.
NEEDED = (
    "store.uri=s3://bucket/prefix",
    "recipe.model.source=s3://bucket/model",
    "recipe.data.source=s3://bucket/questions.csv",
)
TESTED = "recipe.data.columns.tests=tests"
STAGES = ("preprocess", "train", "generate", "evaluate")


def required(program):
    """Find a program; without it the test is skipped, or fails if QATUNE_REQUIRE_CLUSTER is 1."""
    found = shutil.which(program)
    if not found:
        must = os.environ.get("QATUNE_REQUIRE_CLUSTER") == "1"
        (pytest.fail if must else pytest.skip)(f"{program} is not installed")
    return found


def helm(*arguments, code=0):
    """Run helm; return what it says on both outputs."""
    command = [required("helm"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def sets(*settings, flag="--set"):
    """Return Helm's arguments for what a recipe needs and for these settings, which come last."""
    return [part for setting in (*NEEDED, *settings) for part in (flag, setting)]


def render(*settings, name="run-1", recipe=RECIPE):
    """Render the chart's objects, with `--set` for each setting."""
    given = ("-f", recipe, *sets(*settings))
    text = helm("template", name, CHART, "--namespace", "team", *given)
    return [found for found in yaml.safe_load_all(text) if found]


def refusal(*settings, recipe=RECIPE):
    return helm("template", "run-1", CHART, "-f", recipe, *sets(*settings), code=1)


def of(objects, kind, component=None):
    """Return the objects of a kind, by component."""
    found = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each
        for each in objects
        if each["kind"] == kind
    }
    return found if component is None else found[component]


def pods(objects):
    """Return every pod's spec, by the name of what makes it."""
    specs = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in objects
        if each["kind"] == "Job"
    }
    return specs | {
        each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Pod"
    }


def env(job):
    return {each["name"]: each for each in container(job)["env"]}


def container(job):
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only
