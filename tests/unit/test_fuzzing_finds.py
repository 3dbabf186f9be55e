"""What fuzzing has found once: each of these ended in a traceback, a hang, or half a row."""

import io
import json

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.support.mutated import assert_one_line

from qatune import recipe
from qatune.config import Columns
from qatune.data import openai_batch, readers
from qatune.data.archives import damage_named
from qatune.data.readers import read_rows
from qatune.data.requests import Question
from qatune.errors import BadDataError, BadRecipeError, MissingInputError

RECIPE = "recipe: {model: {source: m}, data: {source: q.csv}, train: {max_steps: %s}}"
# Nine lists of nine lists, and so on: more than any memory holds, in a few lines.
ALIASES = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


def read(data, name):
    return list(read_rows(io.BytesIO(data), name, name, Columns()))


def refused(load):
    with pytest.raises(BadRecipeError) as raised:
        load()
    assert_one_line(str(raised.value))
    return str(raised.value)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("[" * 2000, "not YAML: maximum recursion depth"),
        ("2001-13-01", "not YAML: month must be in 1..12"),
        ("1" * 5000, "not YAML: Exceeds the limit"),
        ("0x_", "not YAML: invalid literal"),
        ('"\\UFFFFFFFF"', "not YAML: "),
        ("!!timestamp x", "not YAML: "),
        ("!!bool x", "not YAML: "),
        ("{? {a: b} : c}", "not YAML: "),
        ("0x" + "f" * 5000, "recipe.train.max_steps: cannot be written down"),
        ("[0x" + "f" * 5000 + "]", "recipe.train.max_steps: input should be a valid integer"),
    ],
)
def test_a_value_that_pyyaml_stumbles_over(tmp_path, value, part):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE % value)
    assert part in refused(lambda: recipe.load(str(path)))


def test_aliases_of_aliases_are_not_written_out(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(ALIASES + RECIPE % "*a29")
    assert "recipe.train.max_steps: input should be a valid integer (it is [[[" in refused(
        lambda: recipe.load(str(path))
    )


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.lora.target_modules=[2001-13-01]", "the value is not YAML"),
        ("train.lora.target_modules=" + "[" * 2000, "the value is not YAML"),
        ('train.lora.target_modules=["\\ud800"]', "target_modules: cannot be written down"),
        ("data.template=\udcff{question} {answer}", "recipe.data.template: cannot be written"),
    ],
)
def test_an_override_that_pyyaml_or_the_store_stumbles_over(override, part):
    assert part in refused(lambda: recipe.load("demo", [override]))


def test_a_recipe_of_a_run_that_is_nested_too_deeply():
    assert "here: not JSON: maximum recursion" in refused(
        lambda: recipe.parse(b"[" * 100_000, "here")
    )


def test_a_name_that_no_file_can_have():
    with pytest.raises(MissingInputError, match="cannot be read: File name too long"):
        recipe.load("a" * 5000)


@pytest.mark.parametrize(
    ("name", "shown"), [("\ud800", "\\ud800"), ("x" * 10_000, "x" * 40), ("\x1b[2J", "\\x1b[2J")]
)
def test_a_field_s_name_that_is_no_text_is_that_request_s_own_error(name, shown):
    line = json.dumps({"custom_id": "a", "body": {name: 1}}).encode()
    (row,) = openai_batch.read([line], Question("", None, 8))
    assert row.fault.message == f"body.{shown}: not supported"
    written = openai_batch.error_line(row, model="m", code="c", message=row.fault.message)
    json.dumps(written, ensure_ascii=False).encode()


def test_a_csv_line_longer_than_the_bound_is_not_cut_in_two_rows(monkeypatch):
    monkeypatch.setattr(readers, "RECORD_BYTES", 100)
    with pytest.raises(BadDataError, match="the record that starts in line 2 goes on"):
        read(b"question,answer\nQ," + b"A" * 150 + b"\nQ,A\n", "x.csv")


@pytest.mark.parametrize("rest", [b" " * 100 + b"junk", b" " * 500])
def test_a_json_line_longer_than_the_bound_is_no_row(monkeypatch, rest):
    monkeypatch.setattr(readers, "RECORD_BYTES", 100)
    good = b'{"question": "Q", "answer": "A"}'
    rows = read(b"\n".join([good, good + rest, good]), "x.jsonl")
    assert [getattr(row, "reason", "ok") for row in rows] == ["ok", "malformed", "ok"]


def test_a_parquet_column_whose_name_is_no_text():
    file = io.BytesIO()
    table = pa.table({"question": ["Q"], "answer": ["A"], "zzzz": ["B"]})
    parquet.write_table(table, file, store_schema=False)
    data = file.getvalue().replace(b"zzzz", b"\xff\xff\xff\xff")
    with pytest.raises(BadDataError, match=r"x\.parquet: not a parquet file, or a damaged"):
        read(data, "x.parquet")


@pytest.mark.parametrize("error", [pa.ArrowIndexError, pa.ArrowNotImplementedError])
def test_what_arrow_says_of_damaged_pages_is_the_file_s_fault(error):
    with (
        pytest.raises(BadDataError, match="x: not a parquet file, or a damaged"),
        damage_named("x", "parquet"),
    ):
        raise error("Index 25 out of bounds")


def test_an_interruption_of_arrow_is_no_damage():
    with pytest.raises(pa.ArrowCancelled), damage_named("x", "parquet"):
        raise pa.ArrowCancelled("SIGINT")
