"""What several tests ask of a page that a browser shows."""

from importlib.resources import files

from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

WIDTHS = (360, 800, 1400)
# Text must stand out by this much, by WCAG 2.2, level AA.
CONTRAST = 4.5
_AXE = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


def ids(page):
    return [node.get_attribute("data-id") for node in page.find_elements(By.TAG_NAME, "article")]


def texts(page, selector):
    """Return the texts of all that is found, shown or not."""
    script = "return [...document.querySelectorAll(arguments[0])].map(node => node.textContent)"
    return page.execute_script(script, selector)


def inner_text(page, selector):
    """What is shown, with the white space that the driver would trim."""
    return page.execute_script(f"return document.querySelector({selector!r}).innerText")


def choose(page, name, value):
    Select(page.find_element(By.ID, name)).select_by_value(value)


def options(page, name):
    found = Select(page.find_element(By.ID, name)).options
    return [option.get_attribute("value") for option in found]


def filters(page):
    found = page.find_elements(By.CSS_SELECTOR, "#filters input")
    return [box.get_attribute("value") for box in found]


def check(page, name):
    page.find_element(By.CSS_SELECTOR, f"#filters input[value='{name}']").click()


def count(page):
    return page.find_element(By.ID, "count").text


def fits(page):
    return page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def show_as(page, kind="", scheme="light"):
    """Show the page on `print`, or in a colour scheme."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": features})


def barriers(page):
    """Return what axe finds that keeps someone from using the page."""
    page.execute_script(_AXE)
    found = page.execute_async_script(
        "const done = arguments[0];"
        "axe.run({resultTypes: ['violations'], preload: false}).then("
        "  found => done(found.violations.flatMap(each => each.nodes.map("
        "    node => `${each.id}: ${node.html.slice(0, 200)} ${node.failureSummary}`))),"
        "  error => done([String(error)]));"
    )
    return [str(each) for each in found]


def contrasts(page):
    """Return how far each colour of the style sheet stands out from each ground it is used on."""
    return page.execute_script(
        """
        const style = getComputedStyle(document.documentElement);
        const light = (name) => {
          const hex = style.getPropertyValue(name).trim().replace("#", "");
          const full = hex.length === 3 ? [...hex].map((each) => each + each).join("") : hex;
          const [r, g, b] = [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16) / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const used = {
          "--ink": ["--ground", "--card", "--tint-good", "--tint-bad", "--tint-same",
                    "--ins", "--del", "--learned"],
          "--muted": ["--ground", "--card"], "--accent": ["--ground", "--card"],
          "--second": ["--card"], "--good": ["--card"], "--bad": ["--card"],
        };
        return Object.fromEntries(Object.entries(used).flatMap(([text, grounds]) =>
          grounds.map((ground) => {
            const [high, low] = [light(text), light(ground)].sort((a, b) => b - a);
            return [`${text} on ${ground}`, (high + 0.05) / (low + 0.05)];
          })));
        """
    )
