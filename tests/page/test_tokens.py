"""The chart of the next token, the token views, and texts that are kept while they are typed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from modules.chat.drafts import Draft

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser


def open_mode(page: Page, served: Served, mode: str) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    page.click(f"button[role=tab]:has-text('{mode}')")


def test_the_chart_follows_knobs_and_prompt_and_says_when_there_is_no_model(
    page: Page, served: Served
) -> None:
    open_mode(page, served, "Parameters")
    first = page.locator("#next-token-chart tbody tr").first
    expect(first).to_contain_text("The")
    expect(page.locator("#next-token-chart")).to_contain_text("Kept 6 of 1,000 tokens.")
    page.click("#neutralize")
    expect(first.locator("td").last).to_have_text("50.8 %")
    page.locator("#knob-top_k input[type=number]").fill("1")
    page.locator("#knob-top_k input[type=number]").press("Tab")
    expect(first.locator("td").last).to_have_text("100.0 %")
    page.fill("#next-sentence", "Another sentence")
    page.select_option("#next-source", "chat")
    expect(page.locator("#next-token-chart")).to_contain_text("nothing in this chat yet")
    assert served.engine.looks[-1].request.params.top_k == 1
    served.do(lambda: served.loop.create_task(served.engine.unload()))
    expect(page.locator("#next-token-chart")).to_contain_text("Load a model")


def test_a_text_is_shown_by_its_tokens_and_by_what_may_follow(page: Page, served: Served) -> None:
    open_mode(page, served, "Notebook")
    page.fill("#notebook-text textarea", "Once upon\n a <b>time</b>")
    expect(page.locator("#notebook-count")).to_have_text("5 of 2,048 tokens")
    page.click("#notebook-mode button[role=tab]:has-text('Tokens')")
    expect(page.locator("#notebook-tokens .token")).to_have_count(5)
    expect(page.locator("#notebook-tokens .tokens")).to_contain_text("·<b>time</b>")
    page.locator("#notebook-tokens .tokens").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#notebook-tokens .token-told")).to_contain_text(re.compile("Token \\d+"))
    page.click("#notebook-mode button[role=tab]:has-text('Logits')")
    expect(page.locator("#notebook-logits tbody tr").first).to_contain_text("50.0 %")


def test_what_is_typed_survives_and_another_tabs_text_is_not_overwritten(
    page: Page, served: Served
) -> None:
    open_mode(page, served, "Notebook")
    box = page.locator("#notebook-text textarea")
    box.click()
    with page.expect_response("**/page/draft"):
        box.press_sequentially("Once")
    assert served.ctx.drafts.latest("owner", "notebook") == Draft("Once")
    page.reload()
    page.click("button[role=tab]:has-text('Notebook')")
    expect(box).to_have_value("Once")
    served.ctx.drafts.save("owner", "notebook", Draft("Once, elsewhere"))
    box.press_sequentially(" here")
    note = page.locator("#notebook-draft")
    expect(note).to_contain_text("Another tab has changed this text.")
    assert served.ctx.drafts.latest("owner", "notebook") == Draft("Once, elsewhere")
    note.get_by_text("Show that text").click()
    expect(box).to_have_value("Once, elsewhere")


def test_a_prompt_is_saved_chosen_and_deleted_in_the_page(page: Page, served: Served) -> None:
    open_mode(page, served, "Notebook")
    page.fill("#notebook-text textarea", "A prompt of mine:")
    page.click("#notebook-prompt-save")
    page.fill("#ask-text", "Mine")
    page.click(".ask-dialog button.primary")
    expect(page.locator("#notebook-prompt")).to_have_value("Mine")
    page.select_option("#notebook-prompt", "Story")
    expect(page.locator("#notebook-text textarea")).not_to_have_value("A prompt of mine:")
    page.select_option("#notebook-prompt", "Mine")
    expect(page.locator("#notebook-text textarea")).to_have_value("A prompt of mine:")
    page.click("#notebook-prompt-delete")
    expect(page.locator("#notebook-prompt option", has_text="Mine")).to_have_count(0)
    page.locator(".toast", has_text="Mine is deleted").get_by_role("button", name="Undo").click()
    expect(page.locator("#notebook-prompt")).to_have_value("Mine")
