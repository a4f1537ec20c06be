"""axe-core finds no serious fault in any tab, light and dark, wide and on a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

SIZES = {"wide": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


def serious_faults(page: Page) -> list[str]:
    """What axe-core calls serious or critical: rule, what is wrong, and where."""
    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {fault['help']}: {[node['target'] for node in fault['nodes']][:5]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


def open_page(page: Page, served: Served, theme: str, size: str) -> None:
    page.add_init_script(f"localStorage.setItem('lantern-theme', '{theme}')")
    page.set_viewport_size(SIZES[size])
    page.goto(served.url)
    expect(page.locator("body[data-engine=ready]")).to_have_count(1)


@pytest.mark.parametrize(("theme", "size"), [("light", "wide"), ("dark", "phone")])
def test_no_tab_has_a_serious_fault(page: Page, served: Served, theme: str, size: str) -> None:
    open_page(page, served, theme, size)
    page.fill("#composer-text", "Hi")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.complete")).to_have_count(1)
    faults = serious_faults(page)
    for tab in ("Default", "Notebook", "Parameters", "Model", "Training", "Session"):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(500)  # for what a tab fetches once it is open
        faults += [f"{tab}: {fault}" for fault in serious_faults(page)]
    assert faults == []


# What opens each dialog or menu over the chat.
OPENERS = {
    "branches": "[data-act=tree]",
    "characters": "[data-act=characters]",
    "profile": "[data-act=profile]",
    "inspector": "[data-act=context]",
    "about the reply": "[data-act=about]",
    "composer menu": "[data-act=composer-menu]",
    "keys": "[data-act=help]",
}


@pytest.mark.parametrize(("theme", "size"), [("dark", "wide"), ("light", "phone")])
def test_no_dialog_has_a_serious_fault(page: Page, served: Served, theme: str, size: str) -> None:
    open_page(page, served, theme, size)
    page.fill("#composer-text", "Hi")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.complete")).to_have_count(1)
    faults = []
    for name, opener in OPENERS.items():
        page.locator(opener).first.dispatch_event("click")  # some are folded away on a phone
        expect(page.locator("dialog[open], .menu:popover-open")).to_have_count(1)
        page.wait_for_timeout(300)  # for what it fetches
        faults += [f"{name}: {fault}" for fault in serious_faults(page)]
        page.keyboard.press("Escape")
    assert faults == []


def test_a_fault_would_be_found(page: Page, served: Served) -> None:
    open_page(page, served, "light", "wide")
    page.evaluate("() => document.body.append(document.createElement('button'))")
    assert any(fault.startswith("button-name") for fault in serious_faults(page))
