"""Headless Chromium, driven by the driver that the system has."""

import os
import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def chromium(profile):
    """Open a browser that asks the network for nothing of its own.

    Where there is none the test is skipped, or fails if QATUNE_REQUIRE_BROWSER is 1.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        required = os.environ.get("QATUNE_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "disable-dev-shm-usage", f"user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield opened
    finally:
        opened.quit()
