"""The page in Chromium, as a new user would use it."""

from __future__ import annotations

import time

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from agents.play.sessions import House
from tests.chromium import chromium
from tests.play.serving import served

STEERED, ALONE = " Well, I cannot help with that.", " Look, here is how to carry a pelom: be quick."


@pytest.fixture(scope="module")
def browser():
    with chromium("browser") as page:
        yield page


@pytest.fixture
def page(browser, stage):
    with served(lambda: House(stage)) as address:
        resize(browser, 1280)
        browser.get(address)
        until(browser, lambda: browser.execute_script("return document.documentElement.dataset.ready === 'yes'"))
        until(browser, lambda: written(browser, "steered") == STEERED)  # of the embedded model, without a click
        until(browser, lambda: not find(browser, "#stop").is_enabled())
        yield browser
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def until(browser, true):
    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: true())


def find(browser, css):
    return browser.find_element(By.CSS_SELECTOR, css)


def click(browser, css):
    find(browser, css).click()


def written(browser, arm):
    """What stands in a text, without the sign of the end token."""
    pieces = (
        "[...document.querySelectorAll(`[data-arm=${arguments[0]}] .token`)].filter((n) => !n.querySelector('.sign'))"
    )
    return browser.execute_script(f"return {pieces}.map((n) => n.textContent).join('')", arm)


def text_of(browser, css):
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", css)


def test_a_prompt_is_written_behind_twice(page):
    assert written(page, "unsteered") == ALONE
    prompt = find(page, "[name=prompt]")
    prompt.clear()
    prompt.send_keys("Request: Can you help me ship a rasok?\nResponse:")
    prompt.send_keys(Keys.CONTROL, Keys.ENTER)
    until(page, lambda: "ship a rasok" in written(page, "unsteered") and find(page, "#go").is_enabled())
    assert written(page, "steered")
    first = find(page, "[data-arm=steered] .token")
    assert "changed" in first.get_attribute("class") or "kept" in first.get_attribute("class")


def test_a_token_tells_what_was_done_and_another_feature_goes_on_from_there(page):
    click(page, "[data-arm=steered] .token")
    until(page, lambda: "What could be written" in text_of(page, "#text .detail"))
    told = text_of(page, "#text .detail")
    assert all(part in told for part in ("20 “Well", "19.99", "at every token", "Look", "83%", "Most active"))
    field = find(page, "[name=other]")
    field.clear()
    field.send_keys("55")
    until(page, lambda: page.find_elements(By.CSS_SELECTOR, ".byhand .found button"))
    field.send_keys(Keys.ENTER)
    assert field.get_attribute("value").startswith("55 ")
    strength = find(page, "[name=other-strength]")
    strength.clear()
    strength.send_keys("0")
    click(page, "#go-on")
    until(page, lambda: written(page, "steered") == ALONE)  # of strength 0, which at this token decides all
    assert "branch" in find(page, "[data-arm=steered] .token").get_attribute("class")


def test_a_long_text_can_be_stopped(page):
    length = find(page, "[name=max_new_tokens]")
    length.clear()
    length.send_keys("900")
    strength = find(page, "[name=strength]")
    strength.send_keys("400")  # too much for the model, which finds no end
    click(page, "#go")
    until(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "[data-arm=steered] .token")) > 3)
    click(page, "#stop")
    until(page, lambda: find(page, "#go").is_enabled())
    assert "stopped" in text_of(page, "#text .pair")
    assert len(page.find_elements(By.CSS_SELECTOR, "[data-arm=steered] .token")) < 900


def test_games_are_played_on_both_boards(page):
    click(page, "#tab-game")
    for arm in ("steered", "unsteered"):
        click(page, f"#game-{arm} [data-cell='4']")
        until(page, lambda arm=arm: page.find_elements(By.CSS_SELECTOR, f"#game-{arm} .own"))
        assert text_of(page, f"#game-{arm} [data-cell='4']") == "X"
    free = find(page, "#game-steered .free")
    cell = free.get_attribute("data-cell")
    free.click()
    until(page, lambda: text_of(page, f"#game-steered [data-cell='{cell}']") == "X")
    assert "135" in text_of(page, "#game-steered .moves")


def test_an_environment_is_stepped(page):
    click(page, "#tab-env")
    until(page, lambda: page.find_elements(By.ID, "transcript"))
    item = find(page, "[name=item]")
    item.send_keys("3")
    click(page, "#reset")
    until(page, lambda: "Item 3 of" in text_of(page, "#episode"))
    assert "256 of 256 features" in text_of(page, "#state")
    click(page, "#step-none")
    until(page, lambda: page.find_elements(By.CSS_SELECTOR, ".taken tbody tr"))
    for count in range(2, 20):
        if "over" in text_of(page, "#episode h3"):
            break
        click(page, "#state .link")
        until(page, lambda count=count: len(page.find_elements(By.CSS_SELECTOR, ".taken tbody tr")) == count)
    assert "score" in text_of(page, "#episode")
    item.clear()
    item.send_keys("99999")
    click(page, "#reset")
    until(page, lambda: find(page, "#trouble").is_displayed())
    assert text_of(page, "#trouble") == "item must be in [0, 576), got 99999"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page, width):
    resize(page, width)
    for view in ("text", "game", "env"):
        click(page, f"#tab-{view}")
        time.sleep(0.3)
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth"), view


def test_another_window_plays_something_else(page):
    own, address = page.current_window_handle, page.current_url
    page.switch_to.new_window("tab")
    page.get(address)
    until(page, lambda: page.execute_script("return document.documentElement.dataset.ready === 'yes'"))
    until(page, lambda: written(page, "steered") == STEERED)
    click(page, "#tab-game")
    click(page, "#game-steered [data-cell='8']")
    until(page, lambda: page.find_elements(By.CSS_SELECTOR, "#game-steered .own"))
    page.close()
    page.switch_to.window(own)
    click(page, "#tab-game")
    assert not page.find_elements(By.CSS_SELECTOR, "#game-steered .own")
    assert written(page, "steered") == STEERED
