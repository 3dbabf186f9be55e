"""Several runs on one page."""

import pytest
from selenium.webdriver.common.by import By
from tests.support import finished_run as made
from tests.support import made_comparison
from tests.support.looking import WIDTHS, barriers, fits, show_as, texts


@pytest.fixture
def two(show):
    return show(made_comparison.page())


@pytest.fixture
def three(show):
    return show(made_comparison.page(made_comparison.of_three()))


def test_equal_inputs_give_equal_bytes():
    assert made_comparison.page() == made_comparison.page()


def test_the_verdict_comes_first(two):
    verdict = two.find_element(By.CSS_SELECTOR, "#verdicts .verdict.worse")
    assert verdict.text.startswith("gpt2-large is worse than llama-3.2-1b: bits per byte")
    assert verdict.rect["y"] < two.find_element(By.TAG_NAME, "main").rect["y"]


def test_each_pair_has_its_verdict_and_its_differences(three):
    marks = three.execute_script(
        "return [...document.querySelectorAll('#verdicts .verdict')].map(each => each.className)"
    )
    assert marks == ["verdict worse", "verdict same", "verdict worse"]
    assert texts(three, "#pairs h3")[0] == "gpt2-large against llama-3.2-1b"
    assert len(three.find_elements(By.CSS_SELECTOR, "#pairs table.measures")) == 3
    assert "base-alone has no adapter" in three.find_element(By.CSS_SELECTOR, ".warnings").text


def test_bits_per_byte_lead_and_it_is_said_why(two):
    assert texts(two, "#numbers tbody th")[0] == "Bits per byte"
    assert texts(two, "#numbers tbody tr:first-child td") == ["0.8110", "0.9034"]
    assert "Loss per token" not in texts(two, "#numbers tbody th")
    assert "cannot be compared by their losses" in two.find_element(By.ID, "numbers").text
    first = texts(two, "#pairs .measures tbody th")[0]
    assert first.split("lower")[0].strip() == "Bits per byte"


def test_what_each_run_took_stands_side_by_side(three):
    lines = dict(
        zip(
            texts(three, "#facts tbody th"),
            three.find_elements(By.CSS_SELECTOR, "#facts tbody tr"),
            strict=True,
        )
    )
    cells = [cell.text for cell in lines["Optimizer steps"].find_elements(By.TAG_NAME, "td")]
    assert cells == ["9,960", "12,450", "\u2013"]
    assert {"Seconds of the train stage", "Samples per second", "Training loss"} < lines.keys()
    assert "ab" * 32 in three.find_element(By.ID, "facts").text


def test_each_run_against_its_base(three):
    verdicts = [text.strip() for text in texts(three, "#alone .judged")]
    assert verdicts == ["better", "better", "not compared"]
    labels = texts(three, "#alone tbody th")
    at = labels.index("Loss per token")
    cells = three.find_elements(By.CSS_SELECTOR, "#alone tbody tr")[at].text
    assert "2.1031 \u2192 1.7244" in cells


def test_hostile_names_are_shown_as_text(show):
    found = made_comparison.comparison(notes=[made.HOSTILE])
    found["runs"][0]["model"] = made.HOSTILE
    page = show(made_comparison.page(found))
    assert "<b>bold</b>" in page.find_element(By.CSS_SELECTOR, ".warnings").text
    assert "<b>bold</b>" in page.find_element(By.ID, "facts").text
    assert not page.find_elements(By.CSS_SELECTOR, "li b, td b")


@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits(three, narrow, width):
    narrow(width)
    assert fits(three)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_keeps_anyone_from_using_the_page(three, narrow, scheme, width):
    narrow(width)
    show_as(three, scheme=scheme)
    three.execute_script(
        "for (const each of document.querySelectorAll('details')) each.open = true"
    )
    assert barriers(three) == []
