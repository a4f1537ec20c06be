"""The Parameters tab as a person uses it: presets, chips, and groups that fold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser


def open_parameters(page: Page, served: Served, preset: str = "simple-1") -> None:
    page.goto(served.url)
    page.click("button[role=tab]:has-text('Parameters')")
    expect(page.locator("#preset")).to_have_value(preset)


def knob(page: Page, name: str) -> str:
    return page.locator(f"#knob-{name} input[type=number]").input_value()


def set_knob(page: Page, name: str, value: str) -> None:
    box = page.locator(f"#knob-{name} input[type=number]")
    box.fill(value)
    box.press("Tab")


def test_a_preset_sets_the_knobs_and_leaves_the_length_and_the_seed(
    page: Page, served: Served
) -> None:
    open_parameters(page, served)
    set_knob(page, "seed", "42")
    page.select_option("#preset", "Shortwave")
    expect(page.locator("#knob-temperature input[type=number]")).to_have_value("1.53")
    expect(page.locator("#preset-changed")).to_be_hidden()
    assert (knob(page, "top_k"), knob(page, "seed")) == ("33", "42")
    open_parameters(page, served, "Shortwave")
    page.click("button[role=tab]:has-text('Text generation')")
    page.fill("#composer-text", "Hi")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.complete")).to_have_count(1)
    params = served.engine.requests[-1].params
    assert (params.temperature, params.top_p, params.seed) == (1.53, 0.64, 42)


def test_a_moved_knob_is_marked_and_restored(page: Page, served: Served) -> None:
    open_parameters(page, served)
    set_knob(page, "temperature", "1.25")
    expect(page.locator("#preset-changed")).to_be_visible()
    page.click("#preset-restore")
    expect(page.locator("#knob-temperature input[type=number]")).to_have_value("0.7")
    expect(page.locator("#preset-changed")).to_be_hidden()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#knob-temperature input[type=number]")).to_have_value("1.25")


def test_a_chip_resets_its_knob_alone(page: Page, served: Served) -> None:
    open_parameters(page, served)
    page.click(".chip[data-knob=top_k]")
    expect(page.locator("#knob-top_k input[type=number]")).to_have_value("0")
    expect(page.locator("#knob-top_k")).to_be_visible()
    expect(page.locator(".chip[data-knob=top_k]")).to_have_count(0)
    expect(page.locator(".chip[data-knob=top_p]")).to_be_visible()


def test_groups_show_what_is_in_use_until_they_are_unfolded(page: Page, served: Served) -> None:
    open_parameters(page, served)
    expect(page.locator("#knob-top_k")).to_be_visible()
    expect(page.locator("#knob-typical_p")).to_be_hidden()
    page.click(".knob-group:has(#knob-top_p) .knob-fold")
    expect(page.locator("#knob-typical_p")).to_be_visible()
    open_parameters(page, served)
    expect(page.locator("#knob-typical_p")).to_be_visible()
    page.click(".knob-group:has(#knob-top_p) .knob-fold")
    expect(page.locator("#knob-typical_p")).to_be_hidden()
    page.select_option("#preset", "Kobold-Godlike")
    expect(page.locator("#knob-typical_p")).to_be_visible()
    page.select_option("#preset", "Min-P")
    expect(page.locator("#knob-typical_p")).to_be_hidden()


def test_a_preset_is_saved_found_again_deleted_and_brought_back(page: Page, served: Served) -> None:
    open_parameters(page, served)
    file = served.ctx.settings.paths.own_presets / "Mine.yaml"
    set_knob(page, "temperature", "1.25")
    page.click("#preset-save")
    page.fill("#ask-text", "../Mine")
    page.keyboard.press("Enter")
    expect(page.locator(".ask-dialog")).to_contain_text("cannot be used as a name")
    page.fill("#ask-text", "Mine")
    page.keyboard.press("Enter")
    expect(page.locator("#preset")).to_have_value("Mine")
    assert "temperature: 1.25" in file.read_text()
    open_parameters(page, served, "Mine")
    page.click("#preset-delete")
    expect(page.locator("#preset option[value=Mine]")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#preset")).to_have_value("Mine")
    assert "temperature: 1.25" in file.read_text()


def test_the_text_of_a_form_is_asked_for_where_there_is_one(page: Page, served: Served) -> None:
    open_parameters(page, served)
    text = page.locator("#knob-structure_text textarea")
    expect(text).to_be_hidden()
    page.locator("#knob-structure input").click()
    page.get_by_role("option", name="regex").click()
    text.fill("[a-z]+")
    text.press("Tab")
    page.click("button[role=tab]:has-text('Text generation')")
    page.fill("#composer-text", "Hi")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.complete")).to_have_count(1)
    params = served.engine.requests[-1].params
    assert (params.structure, params.structure_text) == ("regex", "[a-z]+")
