"""The LoRAs of a chat, chosen in its header."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser


def apply(served: Served, *names: str) -> None:
    for name in names:
        loading = served.engine.load_adapter(name, name)
        asyncio.run_coroutine_threadsafe(loading, served.loop).result(20)


def answer(page: Page) -> None:
    page.fill("#composer-text", "Hi")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.complete")).to_have_count(1)


def test_a_chat_is_given_weights_of_its_own_and_takes_them_back(page: Page, served: Served) -> None:
    page.goto(served.url)
    button = page.locator("#loras-button")
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    expect(button).to_be_hidden()
    apply(served, "alpaca", "poet")
    expect(button).to_have_text("LoRA: default ▾")
    expect(page.locator("#strip-model")).to_contain_text("LoRA alpaca at 1")
    page.fill("#composer-text", "Hi")
    button.click()
    expect(page.get_by_label("Weight of alpaca in this chat")).to_have_value("1")
    page.get_by_label("Weight of alpaca in this chat").fill("0")
    page.get_by_label("Weight of poet in this chat").fill("0.8")
    page.get_by_role("button", name="Use these weights").click()
    expect(button).to_have_text("LoRA: poet at 0.8 ▾")
    expect(page.locator("#composer-text")).to_have_value("Hi")
    answer(page)
    assert served.engine.requests[-1].adapters == (("poet", 0.8),)
    expect(page.locator(".message.last .stats")).to_contain_text("LoRA poet at 0.8")
    page.reload()
    expect(button).to_have_text("LoRA: poet at 0.8 ▾")
    button.click()
    page.get_by_role("button", name="Default").click()
    expect(button).to_have_text("LoRA: default ▾")


def test_a_chat_without_loras_and_one_whose_lora_is_gone(page: Page, served: Served) -> None:
    page.goto(served.url)
    apply(served, "alpaca")
    button = page.locator("#loras-button")
    button.click()
    page.keyboard.press("Escape")
    expect(page.locator(".lora-weights")).to_have_count(0)
    button.click()
    page.get_by_role("button", name="None").click()
    expect(button).to_have_text("LoRA: none ▾")
    answer(page)
    assert served.engine.requests[-1].adapters == ()
    button.click()
    page.get_by_label("Weight of alpaca in this chat").fill("9")
    page.get_by_role("button", name="Use these weights").click()
    expect(page.locator(".toast.fault")).to_contain_text("cannot be 9")
    button.click()
    page.get_by_label("Weight of alpaca in this chat").fill("1")
    page.get_by_role("button", name="Use these weights").click()
    expect(button).to_have_text("LoRA: alpaca ▾")
    asyncio.run_coroutine_threadsafe(served.engine.unload_adapter("alpaca"), served.loop).result(20)
    page.fill("#composer-text", "Again")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.failed")).to_contain_text("alpaca is not applied")
    button.click()
    expect(page.locator(".lora-weights")).to_contain_text("alpaca (not applied)")
