"""Several runs side by side, without a browser."""

import pytest
from tests.support import made_comparison, made_report

from qatune.report import summary
from qatune.report.comparison_page import _side_by_side

NAMES = ("one", "two", "three")


def pair(one, other, values, rows):
    """Compare two of the runs by one measure, on so many rows."""
    measure = made_report.measure(values[one], values[other], 1.0, "better", rows)
    return {"one": one, "other": other, "measures": {"chrf": measure}}


def shown(*pairs):
    """Return the line that stands in the table, whatever the order of the pairs."""
    runs = [{"name": name} for name in NAMES]
    (line,) = _side_by_side(runs, pairs)
    assert [line] == list(_side_by_side(runs, pairs[::-1]))
    return line


def pairs(first, *others, rows=(8, 8, 8)):
    couples = (("one", "two"), ("one", "three"), ("two", "three"))
    values = [first, *(first | other for other in others)]
    return [
        pair(*couple, *of)
        for couple, of in zip(couples, zip(values, rows, strict=True), strict=True)
    ]


VALUES = {"one": 10.0, "two": 20.0, "three": 30.0}


def test_values_of_the_same_rows_stand_side_by_side():
    assert shown(*pairs(VALUES, {}, {})) == ("chrF", ["10.00", "20.00", "30.00"])
    assert shown(pairs(VALUES, {}, {})[0]) == ("chrF", ["10.00", "20.00", "\u2013"])


@pytest.mark.parametrize(
    "others",
    [
        pairs(VALUES, {"one": 11.0}, {}, rows=(8, 7, 8)),
        pairs(VALUES, {}, {}, rows=(8, 7, 8)),
        pairs(VALUES, {}, {"two": 21.0}),  # as many rows, but others
    ],
)
def test_values_of_different_rows_never_do(others):
    assert shown(*others) == ("chrF", ["\u2013 rows differ"] * 3)


def test_the_page_says_why_a_number_is_missing():
    why = "values on different rows, no number stands here"
    assert why in made_comparison.page(made_comparison.of_three()).decode()
    assert why not in made_comparison.page().decode()


def test_the_terminal_shows_names_as_they_are(capsys):
    found = made_comparison.comparison()
    found["runs"][0]["model"] = "org/[red]model[/nothing]"
    summary.print_comparison(found)
    assert "[red]m" in "".join(capsys.readouterr().out.split())
