"""The rows of the report: found, put in order, and shown with what differs."""

import inspect
import json
import random
import sys
from dataclasses import replace
from difflib import SequenceMatcher

import pytest
from selenium.webdriver.common.by import By
from tests.support import finished_run as made
from tests.support import made_report
from tests.support.looking import (
    check,
    choose,
    count,
    filters,
    fits,
    ids,
    inner_text,
    options,
    texts,
)  # fmt: skip

from qatune.data.records import Answer, FailedRow

HOSTILE_SHOWN = made.HOSTILE.replace("\x00", "\u2400")
ROWS = made.answered()


@pytest.fixture(scope="module")
def content():
    return made_report.page(ROWS)


@pytest.fixture
def page(show, content):
    return show(content)


def search(page, words):
    field = page.find_element(By.ID, "search")
    field.clear()
    field.send_keys(words)


def one(expected, base, adapter, **fields):
    (row,) = made.answered(1)
    answers = [Answer(text, len(text.split()), "stop", 1.0) for text in (base, adapter)]
    return replace(row, expected=expected, base=answers[0], adapter=answers[1], **fields)


@pytest.mark.parametrize("words", ["FUNCTION_77 ", "return the value of item 77,", "item 77."])
def test_search_narrows_the_rows(page, words):
    search(page, words)
    assert ids(page) == ["77"]
    assert count(page) == "1 of 241 rows"


def test_search_finds_rows_without_an_answer(page):
    search(page, "fills the whole context")
    assert ids(page) == ["900"]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("better", 192), ("worse", 48), ("truncated", 103), ("code", 1), ("executed", 2),
        ("looping", 26), ("empty", 6), ("near", 1), ("failed", 1),
    ],
)  # fmt: skip
def test_filters(page, name, rows):
    check(page, name)
    assert count(page) == f"{rows} of 241 rows"
    (label,) = page.find_elements(By.CSS_SELECTOR, f"label:has([value='{name}'])")
    assert label.text.split()[-1] == str(rows)
    check(page, name)
    assert count(page) == "241 of 241 rows"


def test_filters_and_search_combine(page):
    check(page, "worse")
    check(page, "truncated")
    both = [row.id for row in ROWS if int(row.id) % 5 == 0 and cut(row)]
    assert ids(page) == both[:25]
    search(page, "function_105 ")
    assert ids(page) == ["105"]
    page.find_element(By.ID, "clear").click()
    assert count(page) == "241 of 241 rows"
    assert page.switch_to.active_element.get_attribute("id") == "search"


def cut(row):
    return "length" in (row.base.finish, row.adapter.finish)


@pytest.mark.parametrize("order", ["ascending", "descending"])
@pytest.mark.parametrize("side", ["base", "adapter", "difference"])
@pytest.mark.parametrize("column", ["loss", "chrf", "exact_match", "repetition", "tokens"])
def test_sorts_by_any_measure_of_either_model(page, column, side, order):
    table = made_report.table(ROWS)
    base, adapter = (
        [round(float(value), 4) for value in table[f"{variant}_{column}"].to_pylist()]
        for variant in ("base", "adapter")
    )
    values = {"base": base, "adapter": adapter}
    values["difference"] = [theirs - ours for ours, theirs in zip(base, adapter, strict=True)]
    choose(page, "measure", column)
    choose(page, "side", side)
    choose(page, "order", order)
    sign = -1 if order == "descending" else 1
    ranked = sorted(range(len(ROWS)), key=lambda at: sign * round(values[side][at], 9))
    shown = [values[side][int(found) - 1] for found in ids(page)]
    assert shown == pytest.approx([values[side][at] for at in ranked[:25]])


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_rows_without_a_value_come_last(show, order):
    scored, unscored = made.answered(8), made.answered(3, expected=False)
    rows = [replace(row, id=f"unscored-{row.id}") for row in unscored] + scored
    page = show(made_report.page(rows))
    choose(page, "measure", "loss")
    choose(page, "order", order)
    assert set(ids(page)[:8]) == {row.id for row in scored}
    assert ids(page)[0] in ({"5"} if order == "descending" else set("1234678"))


def test_only_what_the_data_has_is_offered(show):
    rows = made.answered(2, expected=False)
    page = show(made_report.page([replace(row, base=row.adapter) for row in rows], ()))
    assert filters(page) == []
    assert not page.find_element(By.ID, "filters").is_displayed()
    assert options(page, "measure") == ["", "repetition", "training_overlap", "tokens"]


def test_turning_pages_leads_on_from_the_first_row(page):
    page.find_element(By.ID, "next").click()
    assert ids(page)[0] == "26"
    assert page.switch_to.active_element.get_attribute("id") == "list"
    assert page.find_element(By.ID, "page").text == "Page 2 of 10"


def test_words_that_differ_are_marked(show):
    right = "Return the first item of the list."
    row = one(right, "Return the last item.", right)
    page = show(made_report.page([row], ()))
    assert texts(page, "article ins") == ["last"]
    assert texts(page, "article del") == []
    base, adapter = texts(page, ".sides > :nth-child(n+2) .facts")
    assert base.endswith("1 word differs, 4 missing")
    assert adapter.endswith("the same words as expected")
    assert inner_text(page, ".sides > :nth-child(2) .text") == "Return the last item."


def test_words_that_are_missing_are_marked_in_the_expected_answer(show):
    page = show(made_report.page([one("one two three", "one", "one three four")], ()))
    assert texts(page, "article del") == ["two"]
    assert texts(page, "article ins") == ["four"]


def test_marks_leave_indentation_alone(show):
    page = show(made_report.page([one("x", "if a:\n    return b", "z")], ()))
    assert texts(page, "article .sides > :nth-child(2) ins") == ["if a:", "return b"]
    assert texts(page, ".text.code") == ["if a:\n    return b"]


def test_marks_do_not_depend_on_colour_alone(page):
    lines = page.execute_script(
        "return ['ins', 'del'].map(tag => document.querySelector(`article ${tag}`))"
        ".map(node => getComputedStyle(node))"
        ".map(style => `${style.textDecorationLine} ${style.textDecorationStyle}`)"
    )
    assert lines == ["underline solid", "underline dotted"]


def test_a_text_too_long_to_compare_is_shown_unmarked_and_it_is_said(show):
    long = " ".join(f"word{at}" for at in range(3000))
    page = show(made_report.page([one(f"a {long} b", long, f"c {long[::-1]} d")], ()))
    same, other = texts(page, ".sides > :nth-child(n+2) .facts")
    assert same.endswith("0 words differ, 2 missing")
    assert other.endswith("too long to mark differences")
    assert texts(page, "article ins") == []


def test_what_is_marked_is_what_is_not_common(page):
    draw = random.Random(0)
    for _ in range(200):
        pair = [" ".join(draw.choices("abcdef", k=draw.randint(0, 9))) for _ in range(2)]
        found = page.execute_script("return compareWords(...arguments)", *pair)
        for text, pieces in zip(pair, (found["expected"], found["answer"]), strict=True):
            assert "".join(piece for piece, _ in pieces) == text
        kept = [
            "".join(piece for piece, differs in pieces if not differs).split()
            for pieces in (found["expected"], found["answer"])
        ]
        assert kept[0] == kept[1]
        blocks = SequenceMatcher(None, *map(str.split, pair), autojunk=False)
        assert len(kept[0]) >= sum(block.size for block in blocks.get_matching_blocks())


def test_measures_of_a_row_are_listed(page):
    search(page, "function_5 do")
    heads = texts(page, "article thead th")
    assert heads == ["Measure", "Base", "Adapter", "Difference"]
    labels = texts(page, "article tbody th")
    assert labels[:4] == ["Loss per token", "chrF", "BLEU", "ROUGE-L"]
    assert set(texts(page, "article table th")) == {*heads, *labels}
    assert all(texts(page, "article td"))
    assert "91 % like the training row 902" in page.find_element(By.TAG_NAME, "article").text


def test_what_an_answer_lacks_is_said_in_words(page):
    search(page, "function_6 do")
    shown = page.find_element(By.TAG_NAME, "article").text
    assert "\u25b2 adapter better: loss \u22120.400" in shown
    assert texts(page, ".sides > :nth-child(2) .badge") == ["cut off"]
    assert texts(page, ".sides > :nth-child(3) .badge") == ["broken code", "tests: error"]


def test_hostile_text_is_shown_as_text(show):
    (row,) = made.answered(1)
    answer = Answer(made.HOSTILE, 9, "stop", 1.0)
    row = replace(
        row, id=made.HOSTILE, question=made.HOSTILE, expected=made.HOSTILE, base=answer,
        adapter=replace(answer, text=f"no character: \ufffd {made.HOSTILE}"),
    )  # fmt: skip
    failed = FailedRow("bad", made.HOSTILE, "undecodable", made.HOSTILE)
    content = made_report.metrics(1, warnings=[made.HOSTILE])
    page = show(made_report.page([row], [failed], content, source=made.HOSTILE))
    assert ids(page) == [made.HOSTILE, "bad"]
    assert inner_text(page, "article h3").strip() == HOSTILE_SHOWN
    shown = [node.text for node in page.find_elements(By.CSS_SELECTOR, "article .text")]
    assert len(shown) == 3
    assert all("</script><script>alert(1)</script><!-- <script> <b>bold</b>" in s for s in shown)
    recipe = page.execute_script("return document.getElementById('recipe').textContent")
    assert json.loads(recipe)["model"]["source"] == made.HOSTILE
    assert not page.find_elements(By.CSS_SELECTOR, "article b, pre b b, li b")
    assert fits(page)


def test_code_keeps_its_lines_and_long_words_fit(page, narrow):
    search(page, "def double")
    shown = inner_text(page, "article[data-id='4'] .sides > :last-child .text")
    assert shown.strip() == made.CODE
    narrow(360)
    search(page, "xxxxx")
    assert fits(page)


def test_blank_lines_around_an_answer_are_not_shown(show):
    page = show(made_report.page([one("x", "\n \n    indented\n\nend\n", " \n\n")], ()))
    assert texts(page, ".text")[1:] == ["    indented\n\nend", "(nothing)"]


def test_without_adapter(show):
    rows = made.answered(4, adapter=False)
    page = show(made_report.page(rows, (), made_report.without_adapter(), adapter=False))
    assert "this run has no adapter" in page.find_element(By.TAG_NAME, "caption").text
    assert "Adapter" not in page.find_element(By.CSS_SELECTOR, "thead").text
    assert filters(page) == ["truncated", "looping"]
    assert options(page, "side") == ["base"]
    sides = page.find_elements(By.CSS_SELECTOR, "article:first-child h4")
    assert [side.text for side in sides] == ["Expected", "Base"]


def test_without_expected_answers(show):
    page = show(made_report.page(made.answered(4, expected=False), ()))
    assert "loss" not in options(page, "measure")
    assert texts(page, "article ins, article del") == []
    sides = page.find_elements(By.CSS_SELECTOR, "article:first-child h4")
    assert [side.text for side in sides] == ["Base", "Adapter"]


def test_only_errors(show):
    page = show(made_report.page([], metrics_=made_report.nothing_measured()))
    assert page.find_element(By.ID, "verdict").text == "No question was answered."
    assert ids(page) == ["900"]
    assert "fills the whole context" in page.find_element(By.TAG_NAME, "article").text


def test_five_thousand_rows_open_at_once(show):
    rows = documented(5000)
    content = made_report.page(rows, metrics_=made_report.metrics(len(rows)))
    page = show(content)
    # Two frames later what was drawn at load is on the screen.
    took = page.execute_async_script(
        "const done = arguments[0];"
        "requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))"
    )
    size = sum(len(text) for row in rows for text in (row.expected, *row.texts)) / len(rows)
    print(  # noqa: T201
        f"5,000 rows of {size:,.0f} characters, {len(content) / 1e6:.1f} MB: "
        f"on the screen {took:.0f} ms after navigation"
    )
    assert count(page) == "5,001 of 5,001 rows"
    assert len(ids(page)) == 25
    assert took < 2000
    started = page.execute_script("return performance.now()")
    page.execute_script(
        "const field = document.getElementById('search'); field.value = 'iterable';"
        "field.dispatchEvent(new Event('input'))"
    )
    searched = page.execute_script("return performance.now()") - started
    print(f"searched in {searched:.0f} ms")  # noqa: T201
    assert 0 < len(ids(page)) <= 25


def documented(wanted):
    """Make rows of real text: what Python's own modules say of themselves."""
    found = [
        (f"What does {module.__name__}.{name} do?", text)
        for module in list(sys.modules.values())
        if module.__name__.split(".")[0] in sys.stdlib_module_names - {"typing"}
        for name, each in sorted(vars(module).items())
        if callable(each) and (text := inspect.getdoc(each))
    ]
    found = sorted(set(found))
    rows = []
    for at, row in enumerate(made.answered(wanted)):
        question, text = found[at % len(found)]
        other, another = (found[(at + step) % len(found)][1] for step in (1, 2))
        text = f"{text}\n\n{other}\n\n{another}"
        answers = [
            replace(row.base, text=f"{another}\n\n{other}"),
            replace(row.adapter, text=text[40:]),
        ]
        rows.append(
            replace(row, question=question, expected=text, base=answers[0], adapter=answers[1])
        )
    return rows
