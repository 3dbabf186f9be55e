import json

import pytest
from selenium.webdriver.support.wait import WebDriverWait
from tests.support.browser import chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def rows_are_read(page):
    """Tell whether the page shows its rows, if it has some."""
    script = "return document.getElementById('count')?.textContent !== ''"
    return page.execute_script(script)


@pytest.fixture
def show(browser, tmp_path):
    """Open a page; afterwards no error was logged and nothing was asked of the network."""

    def show(content):
        path = tmp_path / "page.html"
        path.write_bytes(content)
        browser.set_window_size(1400, 900)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(path.as_uri())
        WebDriverWait(browser, 20, poll_frequency=0.02).until(rows_are_read)
        return browser

    yield show
    assert browser.get_log("browser") == []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            assert message["params"]["request"]["url"].startswith(("file:", "data:"))


@pytest.fixture
def narrow(browser):
    """Make the page so many pixels wide, which a window cannot always be; undo it afterwards."""

    def narrow(width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    yield narrow
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
