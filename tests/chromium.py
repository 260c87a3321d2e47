"""The browser that the report is tested in."""

import os
import shutil

import pytest

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
