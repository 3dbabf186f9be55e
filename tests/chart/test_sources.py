"""Pods see no file of the user's machine: what names one is refused before anything is made."""

import pytest
from tests.support.chart import refusal, render

HUB = "; a hub id needs recipe.{} beside it"


@pytest.mark.parametrize(
    ("name", "source", "file", "hub"),
    [
        ("data.source", "questions.csv", "questions.csv", HUB.format("data.revision")),
        ("data.source", "~/data/*.csv", "*.csv", HUB.format("data.revision")),
        ("model.source", "models/mine", "mine", HUB.format("model.revision")),
        ("generate.input", "./asked.jsonl", "asked.jsonl", ""),
        ("generate.adapter", "~/adapter/", "adapter", ""),
    ],
)
def test_a_file_of_the_user_s_machine_is_refused_with_the_way_out(name, source, file, hub):
    said = refusal("recipe.model.revision=null", f"recipe.{name}={source}")
    assert (
        f"\nrecipe.{name}: '{source}' is a file of your machine, which pods do not see: "
        f"put it into the bucket, and say --set recipe.{name}=s3://BUCKET/{file}{hub}\n"
    ) in said


@pytest.mark.parametrize(
    "settings",
    [
        ("recipe.data.source=/data/questions.csv",),
        ("recipe.data.source=team/questions", "recipe.data.revision=main"),
        ("recipe.model.source=/models/mine", "recipe.model.revision=null"),
        ("recipe.model.source=team/model", "recipe.model.revision=main"),
        ("recipe.generate.input=s3://bucket/asked.jsonl",),
        ("recipe.generate.adapter=s3://bucket/adapter",),
        ("recipe.generate.adapter=none",),
        ("recipe.data.source=questions.csv", "stages.preprocess.enabled=false"),
    ],
    ids=lambda settings: settings[0].removeprefix("recipe."),
)
def test_what_pods_see_is_taken(settings):
    assert render(*settings)
