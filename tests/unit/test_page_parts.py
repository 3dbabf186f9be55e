import base64
import json
import math
import re
import zlib

import pytest
from tests.support import finished_run as made
from tests.support import made_report

from qatune.report import drawing, embedding, html, words


def measure(low, difference, high, detectable=1.0):
    return {"low": low, "difference": difference, "high": high, "detectable": detectable}


def test_better_is_to_the_right_whatever_the_measure():
    drawn = drawing.intervals(
        {"loss": measure(-3, -2, -1), "chrf": measure(1, 2, 3), "bleu": measure(-3, -2, -1)},
        {"loss": "lower", "chrf": "higher", "bleu": "higher"},
    )
    assert drawn["loss"] == drawn["chrf"]
    assert 50 < drawn["loss"].left < drawn["loss"].at < drawn["loss"].right < 100
    assert 0 < drawn["bleu"].left < drawn["bleu"].at < drawn["bleu"].right < 50


def test_measures_share_an_axis_in_units_of_what_could_have_been_shown():
    drawn = drawing.intervals(
        {
            "loss": measure(-0.03, -0.02, -0.01, 0.01),
            "tokens": measure(1, 2, 3),
            "far": measure(1, 900, 999),
        },
        {"loss": "lower", "tokens": "higher", "far": "higher"},
    )
    assert drawn["loss"] == drawn["tokens"]
    assert drawn["loss"].left == drawn["loss"].better
    assert drawn["far"].right <= 100


@pytest.mark.parametrize("missing", ["low", "difference", "high", "detectable"])
def test_what_has_no_interval_or_no_direction_is_not_drawn(missing):
    measures = {"loss": measure(1, 2, 3) | {missing: None}, "length_ratio": measure(1, 2, 3)}
    assert drawing.intervals(measures, {"loss": "lower", "length_ratio": ""}) == {}


def test_bars_share_a_scale():
    bars = drawing.bars(
        {"a": {"loading": 1.0, "working": 3.0}, "b": {"working": 1.0}, "c": {}},
        ("loading", "working"),
    )
    assert bars["a"] == [drawing.Part("loading", 0.0, 25.0), drawing.Part("working", 25.0, 75.0)]
    assert bars["b"] == [drawing.Part("working", 0.0, 25.0)]
    assert bars["c"] == []


def test_rows_are_columns_without_those_that_are_empty():
    data = embedding.columns(made_report.table(made.answered(3, expected=False)), made.FAILED)
    assert data["count"] == 3
    assert "expected" not in data
    assert "loss" not in data["adapter"]
    assert data["base"]["finish"] == ["stop", "stop", "length"]
    assert data["failed"] == [["900", "A question <too> long", "too_long: fills the whole context"]]
    assert [measure[0] for measure in data["measures"]] == [
        "repetition",
        "training_overlap",
        "tokens",
    ]


def test_a_loss_that_is_no_number_is_none():
    (row,) = made.answered(1)
    table = made_report.table([row])
    table = table.set_column(table.schema.get_field_index("base_loss"), "base_loss", [[math.inf]])
    assert "loss" not in embedding.columns(table, ())["base"]


def test_packed_rows_are_the_rows_and_no_html():
    packed = html.packed({"text": made.HOSTILE, "lone": "\ud800"})
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed)
    read = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert read == {"text": made.HOSTILE, "lone": "?"}


@pytest.mark.parametrize("mark", ["<|endoftext|>", "</s>", "<eos>", "<|im_end|>\n"])
def test_the_end_mark_is_told_from_the_answer(mark):
    found = words.sample(made_report.SAMPLE | {"learned": f" Use <b> or </b>.{mark}"})
    assert (found.learned, found.end_mark) == (" Use <b> or </b>.", mark)


def test_an_answer_that_looks_like_an_end_mark_is_none():
    found = words.sample(made_report.SAMPLE | {"learned": " <b>", "ends_with_eos": False})
    assert (found.learned, found.end_mark) == (" <b>", "")


def test_many_steps_without_a_number_are_not_all_named():
    steps = [{"step": at, "grad_norm": None} for at in range(1000, 1009)]
    said = words.not_numbers(steps)
    assert said == "\u00d7 not a number at step 1,000, 1,001, 1,002, 1,003, 1,004 and 4 more"


def test_rows_whose_answers_were_run_are_counted_as_rows():
    page = made_report.page(made.answered(4)).decode()
    assert "The answers to 190 rows, run against their tests; passed by both 2" in page
