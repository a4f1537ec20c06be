"""Characters, profiles and modes, as a person uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from modules.chat.character import Character
from tests.chat.cards import V1, card, picture

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser


def open_gallery(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    page.click("#character-button")
    expect(page.locator(".card").first).to_be_visible()


def give(page: Page, data: bytes, name: str) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.set_input_files(".gallery input[type=file]", file)  # type: ignore[arg-type]


def test_a_chat_begins_with_a_character(page: Page, served: Served) -> None:
    open_gallery(page, served)
    page.click(".card:has-text('Tamsin') .card-choose")
    greeting = page.locator(".message.assistant")
    expect(greeting).to_contain_text("You made it up")
    expect(greeting.locator(".who")).to_have_text("Tamsin")
    expect(greeting.locator("img.avatar")).to_be_visible()
    page.fill("#composer-text", "Hello")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.complete")).to_have_count(3)
    expect(page.locator(".message.last .who")).to_have_text("Tamsin")
    expect(page.locator(".message.last .stats")).to_contain_text("Tiny · ")
    assert "has kept the lighthouse" in served.engine.requests[-1].prompt
    expect(page.locator("#character-button")).to_contain_text("Tamsin")


def test_the_owner_makes_edits_deletes_and_brings_back(page: Page, served: Served) -> None:
    open_gallery(page, served)
    page.click(".gallery >> text=New")
    page.fill(".character-form input[maxlength='100']", "<b>Mira</b>")
    image = {"name": "m.png", "mimeType": "image/png", "buffer": picture()}
    page.set_input_files(".character-form input[type=file]", image)  # type: ignore[arg-type]
    expect(page.locator(".character-form img")).to_be_visible()
    page.get_by_label("Context", exact=True).fill("Mira draws maps.")
    page.click(".character-form button.primary")
    mine = page.locator(".card:has-text('<b>Mira</b>')")
    expect(mine.locator("img")).to_be_visible()
    mine.locator(".card-more").click()
    page.click("[role=menuitem]:has-text('Edit')")
    page.get_by_label("Context", exact=True).fill("Mira draws charts.")
    page.keyboard.press("Escape")
    expect(page.locator(".character-form .told")).to_contain_text("not saved")
    page.click(".character-form button.primary")
    expect(mine).to_contain_text("Mira draws charts.")
    mine.locator(".card-more").click()
    page.click("[role=menuitem]:has-text('Delete')")
    expect(mine).to_have_count(0)
    page.click(".gallery .told >> text=Undo")
    expect(mine).to_have_count(1)


def test_a_card_comes_in_and_a_damaged_one_is_told(page: Page, served: Served) -> None:
    open_gallery(page, served)
    give(page, card(V1)[:-9], "broken.png")
    expect(page.locator(".gallery .told")).to_contain_text("The PNG file is damaged")
    give(page, card(V1 | {"tags": ["map"]}), "mira.png")
    expect(page.locator(".gallery .told")).to_contain_text("no use for it: tags.")
    give(page, card(V1), "mira.png")
    page.click(".gallery .told >> text=Keep both")
    expect(page.locator(".card:has-text('Mira')")).to_have_count(2)


def test_a_chat_tells_that_its_character_is_gone(page: Page, served: Served) -> None:
    served.ctx.characters.save("Mira", Character("Mira", "Hello."), None)
    open_gallery(page, served)
    page.click(".card:has-text('Mira') .card-choose")
    expect(page.locator(".message.assistant")).to_contain_text("Hello.")
    served.ctx.characters.delete("Mira")
    served.do(served.ctx.chats.notices.tell_all)
    expect(page.locator("#chat-note")).to_contain_text("The character Mira is gone")


def test_a_profile_and_a_mode_reach_the_prompt(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#profile-button .avatar")).to_be_visible()
    page.click("#profile-button")
    page.fill(".editor-dialog input[maxlength='100']", "Ann")
    page.click(".editor-dialog button.primary")
    expect(page.locator("#profile-button")).to_contain_text("Ann")
    page.click("#mode-button")
    page.click("[role=menuitem]:has-text('transcript')")
    expect(page.locator("#mode-button")).to_have_text("Chat ▾")
    page.fill("#composer-text", "Hello")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.user .who")).to_have_text("Ann")
    expect(page.locator(".message.assistant.complete")).to_be_visible()
    assert served.engine.requests[-1].prompt == "Ann: Hello\nAssistant:"
    expect(page.locator("#mode-button")).to_have_text("Chat ▾")
