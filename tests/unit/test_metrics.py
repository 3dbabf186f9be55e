import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from tests.support import finished_run as made

from qatune.data.records import Executed, ExecutedRow
from qatune.evaluation import rows as measured_rows
from qatune.evaluation.comparing import metrics
from qatune.evaluation.repeats import Repeats

DOCS = Path(__file__).parents[2] / "docs"


def table(rows, repeats=None, executed=None):
    return measured_rows.measured(rows, repeats, executed, advance=lambda _: None)


def measured(rows, *, errors=0, held_out=True, has_adapter=True, **given):
    found = table(rows, **given)
    return metrics(found, errors, held_out=held_out, has_adapter=has_adapter)


def swapped(row):
    """Call the base's answer the adapter's, and the other way round."""
    return replace(row, base=row.adapter, adapter=row.base)


def outcomes(base, adapter):
    one, other = (Executed(each, "") for each in (base, adapter))
    return ExecutedRow("", one, other)


def test_content_follows_the_published_schema():
    schema = json.loads((DOCS / "metrics.schema.json").read_text(encoding="utf-8"))
    for rows in (made.answered(12), made.answered(3, expected=False), []):
        jsonschema.validate(json.loads(measured(rows).model_dump_json()), schema)


def test_the_leading_measure_decides_and_the_others_are_named():
    found = measured(made.answered(80))
    assert found.verdict.outcome == "better"
    assert found.verdict.measure == "loss_per_token"
    assert found.verdict.sentence.startswith("Better: loss per token from 2.")
    assert found.verdict.sentence.endswith(") over 80 held-out rows.")
    assert any(each.startswith("Worse: chrF") for each in found.verdict.details)


def test_exchanged_models_have_the_opposite_verdict():
    found = measured([swapped(row) for row in made.answered(80)])
    assert found.verdict.outcome == "worse"
    straight = measured(made.answered(80)).measures["loss_per_token"]
    assert found.measures["loss_per_token"].difference == -straight.difference


def test_what_would_have_shown_is_said_where_nothing_did():
    rows = made.answered(40)
    mixed = [swapped(row) if number % 2 else row for number, row in enumerate(rows)]
    said = measured(mixed).verdict
    assert said.outcome == "no measurable difference"
    amount = measured(mixed).measures["loss_per_token"].detectable
    assert f"; one of {amount:.4f} shows in four of five such samples" in said.sentence


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (made.answered(1), "to 1.9805 in one row, which can show nothing."),
        (
            [replace(row, adapter=row.base) for row in made.answered(3)],
            "over 3 held-out rows, equal in each.",
        ),
    ],
)
def test_what_cannot_be_told_says_why(rows, said):
    assert measured(rows).verdict.sentence.endswith(said)


def test_a_difference_of_nothing_has_no_sign():
    first, second, *others = made.answered(30, expected=False)
    cut, whole = (replace(first.base, finish=finish) for finish in ("length", "stop"))
    rows = [replace(row, base=whole, adapter=whole) for row in others]
    rows += [replace(first, base=cut, adapter=whole), replace(second, base=whole, adapter=cut)]
    assert " to 3.3%, 0 (95 % interval " in measured(rows, held_out=False).verdict.sentence


def test_few_rows_can_show_nothing_however_large_a_difference_is():
    rows = [replace(row, adapter=replace(row.adapter, nll=0.01)) for row in made.answered(6)]
    found = measured(rows)
    assert found.verdict.outcome == "no measurable difference"
    assert found.measures["loss_per_token"].detectable is None
    assert "; so few rows can show none" in found.verdict.sentence
    assert measured(made.answered(12)).measures["loss_per_token"].detectable > 0


def test_loss_weighs_tokens_not_rows():
    short, long = made.answered(2)
    rows = [
        replace(short, expected_tokens=1, base=replace(short.base, nll=4.0)),
        replace(long, expected_tokens=9, base=replace(long.base, nll=1.0)),
    ]
    assert measured(rows).measures["loss_per_token"].base == pytest.approx(1.3)


def test_finished_and_cut_answers_apart():
    rows = made.answered(42)  # the base is cut off at every 3rd, the adapter at every 7th
    found = measured(rows)
    assert found.finish.model_dump() == {
        "both_finished": 24, "base_truncated": 12, "adapter_truncated": 4, "both_truncated": 2,
    }  # fmt: skip
    assert (found.apart.finished.rows, found.apart.truncated.rows) == (24, 18)
    finished = [row for row in rows if {row.base.finish, row.adapter.finish} == {"stop"}]
    alone = measured(finished).measures["chrf"]
    assert found.apart.finished.measures["chrf"].difference == alone.difference
    assert "truncated_share" not in found.apart.finished.measures


def test_execution_counts_and_pass_at_1():
    rows = made.answered(40)
    executed = {row.id: outcomes("failed", "passed") for row in rows[:18]}
    executed |= {row.id: outcomes("passed", "timeout") for row in rows[18:20]}
    found = measured(rows, executed=executed)
    assert found.execution.model_dump() == {
        "rows": 20, "base": {"failed": 18, "passed": 2}, "adapter": {"passed": 18, "timeout": 2},
        "passed_both": 0, "passed_base_only": 2, "passed_adapter_only": 18,
    }  # fmt: skip
    passed = found.measures["pass_at_1"]
    assert (passed.rows, passed.base, passed.adapter) == (20, 0.1, 0.9)
    assert passed.verdict == "better"


def test_without_execution_there_is_no_pass_at_1():
    found = measured(made.answered(8))
    assert found.execution is None
    assert "pass_at_1" not in found.measures


def test_near_duplicates_are_counted_shown_and_warned_of():
    rows = made.answered(8)
    text = "a question of many words that stands on both sides of the split: 4"
    rows[3] = replace(rows[3], question=text)
    repeats = Repeats([f"{row.question}\n{row.expected}" for row in rows], [])
    repeats.see("17", f"{text}\n{rows[3].expected}")
    found = measured(rows, repeats=repeats)
    assert found.duplicates.near == 1
    assert [(pair.id, pair.training) for pair in found.duplicates.pairs] == [("4", "17")]
    assert "1 of 8 held-out rows are nearly in the training rows" in found.warnings[0]


def test_an_adapter_that_changes_nothing_is_warned_of():
    rows = [replace(row, adapter=row.base) for row in made.answered(8)]
    found = measured(rows)
    assert "the adapter gives the base's answer to all 8 questions" in found.warnings[0]
    assert found.verdict.outcome == "no measurable difference"
    assert measured(made.answered(8)).warnings == []


def test_a_loss_that_is_no_number_is_left_out_and_warned_of():
    first, *others = made.answered(9)
    broken = replace(first, adapter=replace(first.adapter, nll=float("inf")))
    found = measured([broken, *others])
    assert found.measures["loss_per_token"].rows == 8
    assert found.warnings == ["rows whose loss by the adapter is not a number, left out: 1"]


@pytest.mark.parametrize(
    ("rows", "given", "sentence"),
    [
        ([], {}, "No question was answered."),
        (made.answered(4, adapter=False), {"has_adapter": False}, "The base model alone, loss per"),
    ],
)
def test_nothing_to_compare(rows, given, sentence):
    found = measured(rows, **given)
    assert found.verdict.outcome == "not compared"
    assert found.verdict.sentence.startswith(sentence)


def test_without_expected_answers_the_shape_of_answers_is_compared():
    found = measured(made.answered(40, expected=False), held_out=False)
    assert found.verdict.measure == "truncated_share"
    assert ") over 40 rows; one of " in found.verdict.sentence
    assert found.signatures is None
    assert found.corpus.base.chrf is None


def test_perplexity_that_is_no_float_is_left_out():
    rows = [replace(row, base=replace(row.base, nll=800.0)) for row in made.answered(3)]
    assert measured(rows).corpus.base.perplexity is None


def test_code_in_answers_is_counted_block_by_block():
    text = "```python\nx = 1\n```\n```sh\nls\n```\n```py\nx =\n```\n```\nopen"
    (row,) = made.answered(1)
    found = table([replace(row, adapter=replace(row.adapter, text=text))]).to_pylist()[0]
    counts = {name: found[f"adapter_code_{name}"] for name in ("blocks", "closed", "python")}
    assert counts == {"blocks": 4, "closed": 3, "python": 2}
    assert (found["adapter_code_parsed"], found["adapter_code_parses"]) == (1, False)
    assert (found["base_code_python"], found["base_code_parses"]) == (0, None)


def test_every_column_is_there_and_described():
    found = table(made.answered(4))
    described = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert found.schema.equals(measured_rows.schema())
    for name, _, _ in (*measured_rows.ROW_FIELDS, *measured_rows.VARIANT_FIELDS):
        assert f"| `{name}` |" in described
