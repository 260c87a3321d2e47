"""The browser that pages are tested in."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> tuple[str, str]:
    """Paths of Chromium and its driver. Where they are missing the test is skipped, or fails if they are required."""
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if binary and driver:
        return binary, driver
    reason = "the page is tested in Chromium: apt-get install chromium chromium-driver"
    if os.environ.get("STEER_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium(*logs: str) -> Iterator[webdriver.Chrome]:
    """Chromium without a window, and with these logs; skipped or failed as :func:`find_chromium` says."""
    binary, driver = find_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield page
    finally:
        page.quit()
