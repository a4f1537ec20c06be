"""Finding, arranging, branching, importing chats, and the composer's menu, as a person does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

PARIS = "The capital of France is Paris."


def open_page(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")


def send(page: Page, text: str) -> None:
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.user").last).to_contain_text(text)
    expect(page.locator(".message.last.assistant.complete")).to_have_count(1)


def choose(page: Page, button: str, item: str) -> None:
    """Open a menu, and choose an item of it."""
    page.hover(button)
    page.click(button)
    page.click(f".menu >> text={item}")


def test_a_message_is_found_and_shown_on_its_branch(page: Page, served: Served) -> None:
    open_page(page, served)
    served.engine.reply = lambda request: "A zebra, said the café."
    send(page, "First")
    served.engine.reply = lambda request: "Nothing of it."
    page.click(".message.last [data-act=regenerate]")
    expect(page.locator(".message.last")).to_contain_text("Nothing of it.")
    page.click("[data-act=new-chat]")
    page.keyboard.press("Control+k")
    page.keyboard.type("CAFE zeb")
    expect(page.locator(".hit mark")).to_have_text(["zebra", "café"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".message.flash")).to_contain_text("A zebra")
    expect(page.locator(".message.last .versions")).to_contain_text("1/2")


def test_branches_are_made_and_reached_by_the_tree(page: Page, served: Served) -> None:
    open_page(page, served)
    send(page, "First")
    send(page, "Second")
    page.hover(".message >> nth=1")
    choose(page, ".message >> nth=1 >> [data-act=message-menu]", "Branch from here")
    expect(page.locator(".message")).to_have_count(2)
    send(page, "Another second")
    page.keyboard.press("Alt+b")
    expect(page.locator(".tree .node.shown")).to_have_count(4)
    page.click(".tree .node:has-text('Second') >> nth=0")
    expect(page.locator(".message.user").last).to_contain_text("Second")
    expect(page.locator(".message.user").last.locator(".versions")).to_contain_text("1/2")


def test_a_chat_is_pinned_put_in_a_folder_and_deleted_by_its_menu(
    page: Page, served: Served
) -> None:
    open_page(page, served)
    send(page, "Alpha")
    menu = ".chat-row.current .row-menu"
    choose(page, menu, "Pin to the top")
    expect(page.locator("#chat-list h3")).to_have_text(["Pinned"])
    choose(page, menu, "Unpin")
    choose(page, menu, "Move to folder")
    page.fill("#ask-text", "Work")
    page.keyboard.press("Enter")
    expect(page.locator(".folder-title")).to_have_text("Work")
    page.click(".folder-name")
    expect(page.locator(".chat-row")).to_have_count(0)
    page.keyboard.press("Enter")
    choose(page, menu, "Delete")
    expect(page.locator(".chat-row")).to_have_count(0)
    page.click(".toast >> text=Undo")
    expect(page.locator(".chat-row")).to_have_count(1)


def test_an_incognito_chat_is_marked_and_leaves_nothing_in_the_browser(
    page: Page, served: Served
) -> None:
    open_page(page, served)
    page.keyboard.press("Alt+i")
    expect(page.locator("#incognito-mark")).to_be_visible()
    send(page, "xyzzy")
    expect(page.locator(".chat-row.incognito")).to_contain_text("xyzzy")
    page.fill("#composer-text", "plugh")
    page.click("[data-act=new-chat]")
    expect(page.locator("#composer-text")).to_have_value("")
    page.click(".chat-row.incognito .chat-link")
    expect(page.locator("#composer-text")).to_have_value("plugh")
    assert "plugh" not in page.evaluate("JSON.stringify(localStorage)")


def test_the_composers_menu_begins_adds_and_removes(page: Page, served: Served) -> None:
    open_page(page, served)
    choose(page, "#composer-more", "Start reply with")
    page.fill("#beginning-text", "Sure. ")
    send(page, "First")
    expect(page.locator(".message.last .rendered")).to_have_text(f"Sure. {PARIS}")
    page.click("[data-act=beginning-clear]")
    page.fill("#composer-text", "Mine alone")
    choose(page, "#composer-more", "Send as your message")
    expect(page.locator(".message.last.user")).to_contain_text("Mine alone")
    page.fill("#composer-text", "As if said")
    choose(page, "#composer-more", "Send as a reply")
    expect(page.locator(".message.last.assistant")).to_contain_text("As if said")
    choose(page, "#composer-more", "Remove the last turn")
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator("#composer-text")).to_have_value("Mine alone")
    page.click(".toast >> text=Undo")
    expect(page.locator(".message")).to_have_count(4)
    expect(page.locator("#composer-text")).to_have_value("")


def test_an_impersonation_is_written_into_the_composer_and_stopped(
    page: Page, served: Served
) -> None:
    open_page(page, served)
    send(page, "First")
    served.engine.reply = lambda request: " ".join(f"word{i}" for i in range(500))
    served.engine.delay = 0.03
    page.fill("#composer-text", "I say ")
    page.keyboard.press("Alt+u")
    page.wait_for_function("document.getElementById('composer-text').value.includes('word5')")
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()
    text = page.input_value("#composer-text")
    assert text.startswith("I say word0 word1")
    assert "word499" not in text
    expect(page.locator(".message")).to_have_count(2)


def test_files_are_imported_and_a_bad_one_is_named(page: Page, served: Served) -> None:
    open_page(page, served)
    choose(page, "[data-act=list-menu]", "Import chats")
    talk = {"conversations": [{"from": "human", "value": "Hello there"}]}
    page.set_input_files(
        ".import-dialog input",
        [
            {"name": "bad.json", "mimeType": "application/json", "buffer": b'{"messages": [{}]}'},
            {
                "name": "ok.json",
                "mimeType": "application/json",
                "buffer": json.dumps(talk).encode(),
            },
        ],
    )
    expect(page.locator(".imports .fault")).to_contain_text(
        "bad.json, message 1: 'role' is missing"
    )
    expect(page.locator(".imports")).to_contain_text("ok.json: 1 chat imported")
    page.keyboard.press("Escape")
    expect(page.locator(".message .rendered")).to_have_text("Hello there")
    with page.expect_download() as saved:
        choose(page, ".chat-row.current .row-menu", "Export")
        page.click(".menu >> text=Markdown")
    assert saved.value.suggested_filename == "Hello there.md"
