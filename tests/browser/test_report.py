import json
from dataclasses import replace

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from tests.support import finished_run as made
from tests.support.browser import chromium

from qatune.data.records import Answer, FailedRow
from qatune.report import inputs
from qatune.report.page import render, write_report

HOSTILE_SHOWN = made.HOSTILE.replace("\x00", "\u2400")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def show(browser):
    """Open a page; afterwards no error was logged and nothing was asked of the network."""

    def show(path):
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(path.as_uri())
        return browser

    yield show
    assert browser.get_log("browser") == []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            assert message["params"]["request"]["url"].startswith(("file:", "data:"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(made.finished(), made.RUN, path)
    return path


@pytest.fixture
def page(show, report):
    return show(report)


def written(tmp_path, *rows, **fields):
    path = tmp_path / "report.html"
    write_report(made.finished(*rows, **fields), made.RUN, path)
    return path


def ids(page):
    return [node.get_attribute("data-id") for node in page.find_elements(By.TAG_NAME, "article")]


def choose(page, name, value):
    Select(page.find_element(By.ID, name)).select_by_value(value)


def options(page, name):
    found = Select(page.find_element(By.ID, name)).options
    return [option.get_attribute("value") for option in found]


def count(page):
    return page.find_element(By.ID, "count").text


def inner_text(page, selector):
    """What is shown, with the white space that the driver would trim."""
    return page.execute_script(f"return document.querySelector({selector!r}).innerText")


def fits(page):
    return page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_search_narrows_the_rows(page):
    page.find_element(By.ID, "search").send_keys("FUNCTION_77 ")
    assert ids(page) == ["77"]
    assert count(page) == "1 of 241 rows"


@pytest.mark.parametrize(
    ("name", "rows"),
    [("lower", 192), ("higher", 48), ("truncated", 103), ("empty", 6), ("error", 1)],
)
def test_filters(page, name, rows):
    choose(page, "filter", name)
    assert count(page) == f"{rows} of 241 rows"


def test_sorts_by_loss_difference(page):
    choose(page, "sort", "worsened")
    assert all(int(found) % 5 == 0 for found in ids(page))


@pytest.mark.parametrize("order", ["improved", "worsened"])
def test_rows_without_a_loss_come_last(show, tmp_path, order):
    scored, unscored = made.answered(8), made.answered(3, expected=False)
    rows = [replace(row, id=f"unscored-{row.id}") for row in unscored] + scored
    page = show(written(tmp_path, rows))
    choose(page, "sort", order)
    assert set(ids(page)[:8]) == {row.id for row in scored}
    assert ids(page)[0] in ({"5"} if order == "worsened" else set("1234678"))


def test_turns_pages(page):
    page.find_element(By.ID, "next").click()
    assert ids(page)[0] == "26"


def test_hostile_text_is_shown_as_text(show, tmp_path):
    (row,) = made.answered(1)
    answer = Answer(made.HOSTILE, 9, "stop", 1.0)
    row = replace(
        row, id=made.HOSTILE, question=made.HOSTILE, expected=made.HOSTILE, base=answer,
        adapter=replace(answer, text=f"no character: \ufffd {made.HOSTILE}"),
    )  # fmt: skip
    failed = FailedRow("bad", made.HOSTILE, "undecodable", made.HOSTILE)
    page = show(written(tmp_path, [row], [failed], source=made.HOSTILE))
    assert ids(page) == [made.HOSTILE, "bad"]
    assert inner_text(page, "article h3").strip() == HOSTILE_SHOWN
    shown = [node.text for node in page.find_elements(By.CSS_SELECTOR, "article .text")]
    assert len(shown) == 3
    assert all("</script><script>alert(1)</script><!-- <script> <b>bold</b>" in s for s in shown)
    recipe = page.execute_script("return document.querySelector('pre').textContent")
    assert json.loads(recipe)["model"]["source"] == made.HOSTILE
    assert not page.find_elements(By.CSS_SELECTOR, "article b, pre b")
    assert fits(page)


def test_code_keeps_its_lines_and_long_words_fit(page):
    page.find_element(By.ID, "search").send_keys("def double")
    shown = inner_text(page, "article[data-id='4'] .sides > :last-child .text")
    assert shown.strip() == made.CODE
    page.set_window_size(500, 900)
    page.find_element(By.ID, "search").clear()
    page.find_element(By.ID, "search").send_keys("xxxxx")
    assert fits(page)


def test_blank_lines_around_an_answer_are_not_shown(show, tmp_path):
    (row,) = made.answered(1)
    texts = Answer("\n \n    indented\n\nend\n", 3, "stop", 1.0), Answer(" \n\n", 3, "stop", 1.0)
    page = show(written(tmp_path, [replace(row, base=texts[0], adapter=texts[1])]))
    shown = page.execute_script(
        "return [...document.querySelectorAll('.text')].map(t => t.textContent)"
    )
    assert shown[1:] == ["    indented\n\nend", "(nothing)"]


def test_without_adapter(show, tmp_path):
    page = show(written(tmp_path, made.answered(4, adapter=False), (), adapter=False))
    assert "this run has no adapter" in page.find_element(By.TAG_NAME, "caption").text
    assert "Adapter" not in page.find_element(By.CSS_SELECTOR, ".dense thead").text
    assert options(page, "filter") == ["all", "truncated", "empty", "error"]
    sides = page.find_elements(By.CSS_SELECTOR, "article:first-child h4")
    assert [side.text for side in sides] == ["Expected", "Base"]


def test_without_expected_answers(show, tmp_path):
    page = show(written(tmp_path, made.answered(4, expected=False), ()))
    assert page.find_element(By.ID, "verdict").text.endswith("none could be scored.")
    assert options(page, "sort") == ["given"]
    sides = page.find_elements(By.CSS_SELECTOR, "article:first-child h4")
    assert [side.text for side in sides] == ["Base", "Adapter"]


def test_only_errors(show, tmp_path):
    page = show(written(tmp_path, []))
    assert page.find_element(By.ID, "verdict").text == "No question was answered."
    assert ids(page) == ["900"]
    assert "fills the whole context" in page.find_element(By.TAG_NAME, "article").text


def test_keyboard_reaches_everything_with_visible_focus(page):
    stops = []
    while "next" not in stops and len(stops) < 30:
        ActionChains(page).send_keys(Keys.TAB).perform()
        name, outline = page.execute_script(
            "const at = document.activeElement, style = getComputedStyle(at);"
            "return [at.id || at.className || at.localName, style.outlineStyle]"
        )
        stops.append(name)
        assert outline == "solid", name
    at = [stops.index(name) for name in ("skip", "search", "filter", "sort", "text", "next")]
    assert at == sorted(at)
    assert stops.count("text") == 2  # those that have to be scrolled
    assert len(page.find_elements(By.CSS_SELECTOR, "article [tabindex]")) == 2
    ActionChains(page).send_keys(Keys.ENTER).perform()
    assert page.find_element(By.ID, "page").text == "2 of 10"


def test_dark_mode(page):
    def ground(scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    assert ground("dark") == "rgb(18, 20, 23)"
    assert ground("light") == "rgb(251, 251, 250)"


def test_no_text_of_a_chart_is_cut_off(page):
    page.set_window_size(1400, 900)
    outside = page.execute_script(
        "return [...document.querySelectorAll('figure')].flatMap(figure => {"
        "  const box = figure.getBoundingClientRect();"
        "  return [...figure.querySelectorAll('text')].filter(text => {"
        "    const at = text.getBoundingClientRect();"
        "    return at.left < box.left || at.right > box.right || at.bottom > box.bottom;"
        "  }).map(text => text.textContent);"
        "})"
    )
    assert page.find_elements(By.CSS_SELECTOR, "figure text")
    assert outside == []


def test_print_unfolds_everything_and_folds_it_again(page):
    folded = "return document.querySelectorAll('details:not([open])').length"
    before = page.execute_script(folded)
    assert before
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script(folded) == 0
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.execute_script(folded) == before


def test_five_thousand_rows_open_at_once(show, tmp_path):
    store = made.finished(made.answered(20))
    found = inputs.load(store, made.RUN, made.recipe())
    (tmp_path / "report.html").write_bytes(
        render(replace(found, answered=made.answered(5000)), inputs.metrics(store, made.RUN))
    )
    page = show(tmp_path / "report.html")
    assert count(page) == "5,001 of 5,001 rows"
    timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    took = page.execute_script(f"return {timing}")
    print(f"5,000 rows open in {took:.0f} ms")  # noqa: T201
    assert 0 < took < 5000


@pytest.mark.parametrize(("required", "ends"), [("1", pytest.fail), ("", pytest.skip)])
def test_a_missing_browser_is_no_success_where_it_is_required(monkeypatch, required, ends):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("QATUNE_REQUIRE_BROWSER", required)
    with pytest.raises(ends.Exception, match="chromium"), chromium("profile"):
        pass
