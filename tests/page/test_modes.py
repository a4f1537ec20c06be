"""Default and Notebook mode, the parameters, and the strip, as a person uses them."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser


def open_mode(page: Page, served: Served, mode: str) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    page.click(f"button[role=tab]:has-text('{mode}')")


def test_default_mode_streams_into_the_reader_and_stops(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: " ".join(f"word{i}" for i in range(500))
    served.engine.delay = 0.03
    open_mode(page, served, "Default")
    page.fill("#default-text textarea", "Count:")
    page.click("#default-generate")
    raw = page.locator("#default-raw textarea")
    expect(raw).to_have_value(re.compile("word5"))
    page.click("#default-stop")
    expect(page.locator("#default-stats")).to_contain_text("tokens")
    expect(page.locator("#default-generate")).to_be_enabled()
    assert "word499" not in raw.input_value()


def test_default_mode_continues_renders_and_counts(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: "**bold** <i>slanted</i>"
    open_mode(page, served, "Default")
    page.fill("#default-text textarea", "one two three")
    expect(page.locator("#default-count")).to_have_text("4 of 2,048 tokens")
    page.click("#default-generate")
    expect(page.locator("#default-raw textarea")).to_have_value("**bold** <i>slanted</i>")
    served.engine.reply = lambda request: " more"
    page.click("#default-continue")
    expect(page.locator("#default-raw textarea")).to_have_value("**bold** <i>slanted</i> more")
    assert served.engine.requests[-1].prompt == "one two three**bold** <i>slanted</i>"
    page.click("button[role=tab]:has-text('Markdown')")
    expect(page.locator(".reader-page .rendered strong")).to_have_text("bold")
    page.click("button[role=tab]:has-text('HTML')")
    expect(page.frame_locator(".html-view").locator("i")).to_have_text("slanted")


def test_a_template_fills_the_box_and_a_reload_brings_everything_back(
    page: Page, served: Served
) -> None:
    open_mode(page, served, "Default")
    page.select_option("#default-prompt", "QA")
    text = page.locator("#default-text textarea")
    expect(text).to_have_value(re.compile("Common sense questions"))
    page.click("#default-generate")
    expect(page.locator("#default-raw textarea")).to_have_value("The capital of France is Paris.")
    expect(page.locator("#default-generate")).to_be_enabled()
    page.reload()
    page.click("button[role=tab]:has-text('Default')")
    expect(text).to_have_value(re.compile("Common sense questions"))
    expect(page.locator("#default-raw textarea")).to_have_value("The capital of France is Paris.")


def test_the_notebook_continues_undoes_and_regenerates(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: " upon a time"
    open_mode(page, served, "Notebook")
    box = page.locator("#notebook-text textarea")
    box.fill("Once")
    page.click("#notebook-generate")
    expect(box).to_have_value("Once upon a time")
    expect(page.locator("#notebook-generate")).to_be_enabled()
    served.engine.reply = lambda request: " more"
    page.click("#notebook-regenerate")
    expect(box).to_have_value("Once more")
    expect(page.locator("#notebook-generate")).to_be_enabled()
    page.click("#notebook-undo")
    expect(box).to_have_value("Once")


def test_without_a_model_the_notebook_says_so_and_keeps_the_text(
    page: Page, served: Served
) -> None:
    open_mode(page, served, "Notebook")
    served.do(lambda: served.loop.create_task(served.engine.unload()))
    expect(page.locator("#notice")).to_contain_text("No model is loaded.")
    page.fill("#notebook-text textarea", "Once")
    page.click("#notebook-generate")
    expect(page.locator("#notebook-stats")).to_contain_text("No model is loaded.")
    expect(page.locator("#notebook-text textarea")).to_have_value("Once")


def set_knob(page: Page, name: str, value: str) -> None:
    box = page.locator(f"#knob-{name} input[type=number]")
    box.fill(value)
    box.press("Enter")
    box.blur()


def test_parameters_reach_the_engine_and_survive_a_reload(page: Page, served: Served) -> None:
    open_mode(page, served, "Parameters")
    set_knob(page, "temperature", "1.25")
    set_knob(page, "seed", "42")
    page.fill("#knob-stop textarea", "###\\n")
    expect(page.locator("#parameter-chips")).to_contain_text("Temperature 1.25")
    page.reload()
    page.click("button[role=tab]:has-text('Parameters')")
    expect(page.locator("#knob-temperature input[type=number]")).to_have_value("1.25")
    page.click("button[role=tab]:has-text('Text generation')")
    page.fill("#composer-text", "Hello")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.complete")).to_have_count(1)
    params = served.engine.requests[-1].params
    assert (params.temperature, params.seed, params.stop) == (1.25, 42, ("###\n",))


def test_neutralize_and_defaults_set_every_knob(page: Page, served: Served) -> None:
    open_mode(page, served, "Parameters")
    page.click("#neutralize")
    expect(page.locator("#knob-temperature input[type=number]")).to_have_value("1")
    expect(page.locator("#parameter-chips .chip")).to_have_count(0)
    page.click("#defaults")
    expect(page.locator("#knob-temperature input[type=number]")).to_have_value("0.7")


def test_an_impossible_value_is_refused_in_one_sentence(page: Page, served: Served) -> None:
    page.add_init_script(
        "localStorage.setItem('lantern-params', JSON.stringify({max_new_tokens: -5}))"
    )
    open_mode(page, served, "Chat")
    page.fill("#composer-text", "Hello")
    page.press("#composer-text", "Enter")
    expect(page.locator(".toast.fault")).to_contain_text("max_new_tokens cannot be -5.")
    expect(page.locator("#composer-text")).to_have_value("Hello")


def test_the_knobs_stand_beside_the_chat_on_wide_screens(page: Page, served: Served) -> None:
    open_mode(page, served, "Chat")
    expect(page.locator("#knob-temperature")).to_be_hidden()
    page.click("#params-button")
    expect(page.locator("#knob-temperature")).to_be_visible()
    expect(page.locator("#composer")).to_be_visible()


def test_the_model_is_unloaded_and_listed_in_the_strip(page: Page, served: Served) -> None:
    open_mode(page, served, "Chat")
    page.click("#strip-model button")
    page.click(".menu >> text=Unload")
    expect(page.locator("#strip-model")).to_contain_text("No model")
    expect(page.locator("#notice button")).to_have_text("Choose a model")
    page.click("#notice button")
    expect(page.locator(".menu")).to_contain_text("Fetch the starter")


def test_dark_and_light_are_kept(page: Page, served: Served) -> None:
    open_mode(page, served, "Chat")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("[data-act=theme]")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.reload()
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark != light


def test_a_closed_tab_ends_what_the_default_mode_was_generating(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: " ".join(f"word{i}" for i in range(5000))
    served.engine.delay = 0.02
    open_mode(page, served, "Default")
    page.fill("#default-text textarea", "Count:")
    page.click("#default-generate")
    expect(page.locator("#default-raw textarea")).to_have_value(re.compile("word5"))
    page.goto("about:blank")
    deadline = time.monotonic() + 20
    while served.engine.running and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert served.engine.running == set()
