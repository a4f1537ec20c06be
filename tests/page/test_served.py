"""The page over a second Lantern, in a process of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from tests.peers import free_port, second_lantern

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.page.conftest import Served

    Serve = Callable[..., AbstractContextManager[Served]]

pytestmark = pytest.mark.browser


def open_page(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("second-model")


def send(page: Page, text: str) -> None:
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")


def test_a_chat_is_written_by_a_second_lantern(page: Page, serve: Serve) -> None:
    with second_lantern(delay=0.05, reply="word " * 60) as peer, serve(api_base=peer.url) as served:
        open_page(page, served)
        expect(page.locator("#strip-model")).to_contain_text("Lantern at 127.0.0.1:")
        send(page, "Hello?")
        expect(page.locator(".message.assistant.streaming")).to_contain_text("word word")
        page.keyboard.press("Escape")
        expect(page.locator(".message.assistant.stopped")).to_contain_text("word word")
        assert peer.wait_until_idle()
        page.click(".message.last [data-act=regenerate]")
        expect(page.locator(".message.assistant.complete")).to_contain_text("word word")
        expect(page.locator(".message.last .stats")).to_contain_text("tok/s")


def test_the_model_tab_shows_the_server_and_lets_go_of_it(page: Page, serve: Serve) -> None:
    with second_lantern() as peer, serve(api_base=peer.url) as served:
        open_page(page, served)
        page.get_by_role("tab", name="Model", exact=True).click()
        expect(page.locator("#model-list-end")).to_contain_text("Served by 127.0.0.1:")
        card = page.locator(".model-card")
        expect(card.locator("h2")).to_have_text("second-model")
        expect(card.locator("dl")).to_contain_text("2,048 tokens")
        expect(card.locator(".model-template")).to_contain_text("The server gets the messages")
        expect(card.get_by_role("heading", name="Memory")).to_have_count(0)
        expect(page.locator("#adapter-rows")).to_contain_text("has no LoRA")
        card.get_by_role("button", name="Disconnect").click()
        expect(page.locator("#strip-model")).to_contain_text("No model")
        card.get_by_role("button", name="Use this model").click()
        expect(page.locator("#strip-model")).to_contain_text("second-model")


def test_a_server_that_dies_cuts_the_reply_and_the_chat_goes_on_when_it_is_back(
    page: Page, serve: Serve
) -> None:
    port = free_port()
    first = second_lantern(port, delay=0.05, reply="word " * 400)
    with first as peer, serve(api_base=peer.url) as served:
        open_page(page, served)
        send(page, "Hello?")
        expect(page.locator(".message.assistant.streaming")).to_contain_text("word word")
        peer.kill()
        expect(page.locator(".message.assistant.cut")).to_contain_text("broke off")
        expect(page.locator("#notice")).to_contain_text("broke off in mid-reply")
        with second_lantern(port, reply="Here again."):
            expect(page.locator("#strip-model")).to_contain_text("second-model", timeout=60_000)
            page.click(".message.last [data-act=regenerate]")
            expect(page.locator(".message.assistant.complete")).to_contain_text("Here again.")
