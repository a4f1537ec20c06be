"""Attached files, the context inspector, pins, and what is known about a reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

NOTES = {"name": "notes.md", "mimeType": "text/markdown", "buffer": b"The answer is 42."}


def open_page(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")


def send(page: Page, text: str) -> None:
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.user").last).to_contain_text(text)
    expect(page.locator(".message.last.assistant.complete")).to_be_visible()


def test_a_file_is_attached_kept_over_a_reload_and_sent(page: Page, served: Served) -> None:
    open_page(page, served)
    page.set_input_files("#attach-input", NOTES)
    chip = page.locator("#composer-files .file")
    expect(chip).to_contain_text("17 B · 4 tokens")
    page.reload()
    expect(chip).to_contain_text("notes.md")
    send(page, "What is the answer?")
    assert "[File: notes.md]\nThe answer is 42." in served.engine.requests[-1].prompt
    expect(page.locator(".message.user .file")).to_contain_text("notes.md")
    expect(chip).to_have_count(0)
    page.click(".message.user .file-open")
    expect(page.locator(".sheet-text")).to_have_text("The answer is 42.")


def test_a_file_that_has_no_text_is_refused_in_a_sentence(page: Page, served: Served) -> None:
    open_page(page, served)
    picture = {"name": "cat.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\n"}
    page.set_input_files("#attach-input", picture)
    expect(page.locator(".toast.fault")).to_contain_text("cat.png is a picture.")
    expect(page.locator("#composer-files .file")).to_have_count(0)


def test_the_context_shows_what_is_left_out_and_a_pin_keeps_it(page: Page, served: Served) -> None:
    served.engine.context_length = 60
    open_page(page, served)
    for word in ("first", "second", "third", "fourth"):
        send(page, f"The {word} question, with some words.")
    page.fill("#composer-text", "And the last one?")
    expect(page.locator("#composer-note")).to_contain_text("will be left out")
    page.click("#composer-note button")
    rows = page.locator(".context-list li")
    expect(rows).to_have_count(9)
    expect(rows.first).to_have_class("left-out")
    rows.first.get_by_text("Pin").click()
    expect(rows.first).not_to_have_class("left-out")
    page.click(".sheet >> text=Close")
    expect(page.locator(".message.user .pin-mark")).to_have_count(1)
    expect(page.locator("#composer-note")).to_contain_text("oldest unpinned turn")


def test_a_reply_tells_what_it_is_made_of_and_is_replayed(page: Page, served: Served) -> None:
    open_page(page, served)
    send(page, "Hello")
    page.click(".message.last button.stats")
    sheet = page.locator(".sheet")
    expect(sheet).to_contain_text("4711")
    sheet.get_by_text("The exact prompt").click()
    expect(sheet).to_contain_text("This is what was sent, letter for letter.")
    sheet.get_by_text("Replay").click()
    expect(sheet).to_contain_text("identical to the original")
    sheet.get_by_text("Use these parameters").click()
    expect(page.locator("#parameter-chips")).to_contain_text("Seed 4711")
    sheet.get_by_text("Close").click()
    expect(page.locator(".message.last .versions")).to_contain_text("2/2")
