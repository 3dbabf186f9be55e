"""The report as a whole: what it says first, and who can read it where."""

from dataclasses import replace

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from tests.support import finished_run as made
from tests.support import made_report
from tests.support.browser import chromium
from tests.support.looking import CONTRAST, WIDTHS, barriers, contrasts, fits, show_as, texts

from qatune.report.page import render, write_report
from qatune.store.manifests import SECONDS

ROWS = made.answered()


@pytest.fixture(scope="module")
def content():
    return made_report.page(ROWS)


@pytest.fixture
def page(show, content):
    return show(content)


def test_equal_inputs_give_equal_bytes():
    found, metrics, rows = made_report.found(ROWS), made_report.metrics(), made_report.table(ROWS)
    assert render(found, metrics, rows) == render(found, metrics, rows)


def test_a_run_from_its_store_is_shown(show, tmp_path):
    path = tmp_path / "report.html"
    write_report(made.finished(made.answered(40)), made.RUN, path)
    page = show(path.read_bytes())
    assert page.find_element(By.ID, "verdict").text.startswith("Better: loss per token from")
    labels = texts(page, "#numbers .measures tbody th")
    assert labels[0].split() == ["Loss", "per", "token", "lower", "is", "better"]
    assert len(page.find_elements(By.TAG_NAME, "article")) == 25


@pytest.mark.parametrize(
    ("outcome", "mark"),
    [
        ("better", "better"), ("worse", "worse"), ("no measurable difference", "same"),
        ("not compared", "none"),
    ],
)  # fmt: skip
def test_the_verdict_comes_first_by_word_and_shape(show, outcome, mark):
    page = show(made_report.page(made.answered(4), metrics_=made_report.metrics(4, outcome)))
    first = page.find_element(By.ID, "verdict")
    assert first.text.lower().startswith(outcome)
    assert first.rect["y"] + first.rect["height"] < 400
    assert first.rect["y"] < page.find_element(By.TAG_NAME, "main").rect["y"]
    shapes = page.execute_script(
        "return [...document.querySelectorAll('div.verdict .mark > *')].map(e => e.outerHTML)"
    )
    assert page.find_elements(By.CSS_SELECTOR, f"div.verdict.{mark}")
    others = [name for name in ("better", "worse", "same", "none") if name != mark]
    rest = [texts_of_mark(page, name) for name in others]
    assert shapes not in [each for each in rest if each]


def texts_of_mark(page, name):
    """Return the shapes of a mark elsewhere in the page."""
    return page.execute_script(
        "const mark = document.querySelector(`main .mark.${arguments[0]}`);"
        "return mark ? [...mark.children].map(e => e.outerHTML) : []",
        name,
    )


def test_numbers_stand_with_their_intervals(page):
    cells = texts(page, "#numbers .measures tbody tr:first-child td")
    verdict, _, base, adapter, difference, chance, detectable, rows = map(str.strip, cells)
    assert (verdict, base, adapter) == ("better", "2.1031", "1.7244")
    assert difference.split() == ["\u22120.3787", "\u22120.3901", "to", "\u22120.3673"]
    assert (chance, detectable, rows) == ("< 0.001", "0.0210", "240")


def test_better_is_drawn_to_the_right_of_zero(page):
    at = page.execute_script(
        """
        return Object.fromEntries([...document.querySelectorAll("#numbers .measures tbody tr")]
          .filter(row => row.querySelector("circle.at, .interval circle")).map(row => {
            const middle = (name) => {
              const box = row.querySelector(`.interval ${name}`).getBoundingClientRect();
              return box.x + box.width / 2;
            };
            return [row.querySelector(".verdict-cell").innerText.trim(),
                    middle("circle") - middle(".zero")];
          }));
        """
    )
    assert at["better"] > 20
    assert at["worse"] < -20
    assert len(page.find_elements(By.CSS_SELECTOR, "#numbers .drawn svg")) == 11


def test_cut_answers_stand_apart_and_are_not_called_worse(page):
    heads = texts(page, "th[scope=colgroup]")
    assert heads == ["both answers finished: 100 rows", "at least one cut off: 140 rows"]
    assert "not a worse answer" in page.find_element(By.ID, "numbers").text
    assert "the base's alone is cut off in 69" in page.find_element(By.ID, "numbers").text


def test_cut_answers_are_explained_where_all_are_cut(show):
    finish = dict.fromkeys(("both_finished", "base_truncated", "adapter_truncated"), 0)
    none = {"rows": 0, "measures": {}}
    page = show(
        made_report.page(
            made.answered(4),
            metrics_=made_report.metrics(
                4,
                finish=finish | {"both_truncated": 4},
                apart={"finished": none, "truncated": {"rows": 4, "measures": {}}},
            ),
        )
    )
    assert "not a worse answer" in page.find_element(By.ID, "numbers").text
    assert texts(page, "th[scope=colgroup]") == []


def test_tables_of_executed_code_corpora_and_near_duplicates(page):
    shown = page.find_element(By.CSS_SELECTOR, ".beside").text
    assert "by the adapter alone 8" in shown
    assert "timeout 7 0" in shown
    assert "Perplexity 8.200 5.600" in shown
    assert "5 902 91%" in shown


def test_measures_and_methods_are_explained(page):
    (measures, methods) = texts(page, "#numbers > details")
    assert "nrefs:1|case:mixed" in measures
    assert "Holm" in methods
    assert "does not mean \u201cequal\u201d" in methods


def test_warnings_are_near_the_top(page):
    warnings = page.find_element(By.CSS_SELECTOR, "main > section:first-child")
    assert "raise max_new_tokens" in warnings.text
    assert "34 of 500 steps taught nothing" in warnings.text


def test_what_was_learned_is_marked_with_its_end(page):
    assert texts(page, ".sample .muted") == [made_report.SAMPLE["prompt"]]
    assert texts(page, ".sample mark") == [made_report.SAMPLE["learned"]]
    assert texts(page, ".sample mark b") == ["<|endoftext|>"]


def test_gradients_that_are_no_numbers_do_not_break_the_curves(show):
    found = made_report.found(ROWS[:4])
    none = {"grad_norm": None}
    steps = [step | none if step["step"] == 7 and "loss" in step else step for step in found.steps]
    content = render(
        replace(found, steps=steps), made_report.metrics(4), made_report.table(ROWS[:4])
    )
    page = show(content)
    assert len(page.find_elements(By.CSS_SELECTOR, "figure svg[role=img]")) == 4
    assert texts(page, "figure p")[:1] == ["\u00d7 not a number at step 7"]


def test_no_text_of_a_chart_is_cut_off(page):
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


def test_everything_is_told_of_where_the_seconds_went(page):
    bars = page.find_elements(By.CSS_SELECTOR, ".seconds .bar")
    assert len(bars) == 3
    assert page.find_elements(By.CSS_SELECTOR, ".seconds .bar rect.working")
    assert [text.strip() for text in texts(page, ".seconds caption .nowrap")] == ["working"]
    heads = texts(page, ".seconds thead th")
    assert heads[1 : len(SECONDS) + 1] == list(SECONDS)


def test_keyboard_alone_reaches_everything_with_visible_focus(page):
    stops = []
    while "next" not in stops and len(stops) < 90:
        press(page, Keys.TAB)
        name, outline = page.execute_script(
            "const at = document.activeElement;"
            "const style = getComputedStyle(at.closest('.chip') ?? at);"
            "return [at.id || at.value || at.classList[0] || at.localName, style.outlineStyle]"
        )
        stops.append(name)
        assert outline == "solid", name
    order = [
        "skip",
        "a",
        "scroll",
        "search",
        "measure",
        "better",
        "failed",
        "clear",
        "text",
        "next",
    ]
    at = [stops.index(name) for name in order]
    assert at == sorted(at)
    assert stops.count("text") == len(page.find_elements(By.CSS_SELECTOR, ".text[tabindex]")) == 2
    press(page, Keys.ENTER)
    assert page.find_element(By.ID, "page").text == "Page 2 of 10"


def test_rows_can_be_found_with_the_keyboard_alone(page):
    press(page, Keys.TAB)
    press(page, Keys.ENTER)  # skips to the answers
    press(page, Keys.TAB)
    press(page, *"function_5")
    press(page, Keys.TAB)
    press(page, *"Loss")
    for _ in range(3):
        press(page, Keys.TAB)
    press(page, Keys.SPACE)  # adapter better
    assert page.find_element(By.ID, "count").text == "8 of 241 rows"
    assert page.find_element(By.ID, "measure").get_attribute("value") == "loss"


def press(page, *keys):
    ActionChains(page).send_keys(*keys).perform()


def test_changes_are_announced_once(page):
    live = page.find_elements(By.CSS_SELECTOR, "[aria-live], [role=status], output")
    assert [each.get_attribute("id") for each in live] == ["count"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_keeps_anyone_from_using_the_page(page, narrow, scheme, width):
    narrow(width)
    show_as(page, scheme=scheme)
    page.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert barriers(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out(page, scheme):
    show_as(page, scheme=scheme)
    found = contrasts(page)
    assert len(found) == 15
    assert {name: ratio for name, ratio in found.items() if ratio < CONTRAST} == {}


def test_dark_mode_is_dark(page):
    def ground(scheme):
        show_as(page, scheme=scheme)
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    assert ground("dark") == "rgb(18, 20, 23)"
    assert ground("light") == "rgb(251, 251, 250)"


@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits(page, narrow, width):
    narrow(width)
    page.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert fits(page)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_measures_fits_without_scrolling(page, narrow, width):
    narrow(width)
    inner, outer = page.execute_script(
        "const box = document.querySelector('.scroll:has(.measures)');"
        "return [box.scrollWidth, box.clientWidth]"
    )
    assert inner <= outer


def test_print_shows_all_of_the_rows_on_the_page(page, narrow):
    narrow(700)  # what a sheet of paper holds
    show_as(page, "print")
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    cut = page.execute_script(
        "return [...document.querySelectorAll('.text, article h3')]"
        ".filter(text => text.scrollHeight > text.clientHeight + 1).length"
    )
    assert cut == 0
    assert fits(page)
    assert len(page.find_elements(By.TAG_NAME, "article")) == 25
    for selector in ("#search", "#next", "#clear", ".parts"):
        assert not page.find_element(By.CSS_SELECTOR, selector).is_displayed()
    scrolled = page.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".filter(box => box.scrollWidth > box.clientWidth).map(box => box.ariaLabel)"
    )
    assert scrolled == []


def test_print_unfolds_everything_and_folds_it_again(page):
    folded = "return document.querySelectorAll('main > * > details:not([open])').length"
    before = page.execute_script(folded)
    assert before
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script(folded) == 0
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.execute_script(folded) == before


def test_no_other_script_runs_and_nothing_is_fetched(browser, tmp_path, content):
    path = tmp_path / "page.html"
    path.write_bytes(
        content.replace(b"</main>", b"<script>document.title = 'taken'</script></main>")
    )
    browser.get(path.as_uri())
    fetched = browser.execute_async_script(
        "const done = arguments[0]; fetch('data:,x').then(() => done('yes'), () => done('no'))"
    )
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert browser.title == "finished \u2013 qatune report"
    assert fetched == "no"
    assert len(refused) >= 2
    assert all("Content Security Policy" in message for message in refused)


@pytest.mark.parametrize(("required", "ends"), [("1", pytest.fail), ("", pytest.skip)])
def test_a_missing_browser_is_no_success_where_it_is_required(monkeypatch, required, ends):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("QATUNE_REQUIRE_BROWSER", required)
    with pytest.raises(ends.Exception, match="chromium"), chromium("profile"):
        pass
