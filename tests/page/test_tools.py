"""Tools in a chat, as the owner chooses them and decides about their calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from tests.chat.tools.helpers import hermes, saying
from tests.page.test_accessibility import SIZES, serious_faults

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

Serve = Callable[..., contextlib.AbstractContextManager["Served"]]
CALL = hermes("calculate", expression="17 * 23")


@pytest.fixture
def served(serve: Serve) -> Iterator[Served]:
    """Lantern with the extension."""
    with serve(extensions=("tools",)) as served:
        yield served


def begin(page: Page, served: Served, *names: str) -> None:
    """A chat with these tools."""
    choose(page, served)
    for name in names:
        page.check(f".tool-row input[name={name}]")
    expect(page.locator("#tools-button")).to_have_text(f"Tools: {len(names)}")
    page.click(".sheet >> text=Close")


def choose(page: Page, served: Served) -> None:
    """The list of tools."""
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    expect(page.locator("body[data-tools=on]")).to_be_visible()
    page.click("#composer-more")
    page.click(".menu >> text=Tools…")


def send(page: Page, text: str) -> None:
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")


def test_a_call_is_approved_after_a_reload_and_the_reply_goes_on(
    page: Page, served: Served
) -> None:
    served.engine.reply = saying(f"Let me compute.\n{CALL}", "It is **391**.")
    begin(page, served, "calculate")
    send(page, "What is 17 times 23?")
    card = page.locator(".message.last .call")
    expect(card).to_contain_text("Shall it run?")
    expect(card.locator("dt")).to_have_text("expression")
    expect(card.locator("dd")).to_have_text("17 * 23")
    page.reload()
    expect(page.locator("#send")).to_be_visible()
    card.locator("[data-act=call-run]").click()
    expect(page.locator(".message.last strong >> text=391")).to_be_visible()
    expect(card).to_contain_text("Done")
    expect(card.locator("button")).to_have_count(0)
    expect(card.locator("pre")).to_be_hidden()
    card.locator("summary").click()
    expect(card.locator("pre")).to_have_text("17 * 23 = 391")
    page.reload()
    expect(page.locator(".message.last")).to_contain_text("Let me compute.")
    expect(page.locator(".message.last strong >> text=391")).to_be_visible()


def test_a_refused_call_is_told_to_the_model_and_always_is_not_asked_again(
    page: Page, served: Served
) -> None:
    served.engine.reply = saying(CALL, "Then not.", CALL, "Now.", CALL, "At once.")
    begin(page, served, "calculate")
    send(page, "Compute.")
    page.click(".message.last [data-act=call-refuse]")
    expect(page.locator(".message.last")).to_contain_text("Then not.")
    expect(page.locator(".message.last .call")).to_contain_text("Refused")
    assert "The user refused this call." in served.engine.requests[-1].prompt
    send(page, "Again.")
    page.click(".message.last [data-act=call-always]")
    expect(page.locator(".message.last")).to_contain_text("Now.")
    send(page, "Once more.")
    expect(page.locator(".message.last")).to_contain_text("At once.")
    expect(page.locator(".message.last .call")).to_contain_text("Done")


def test_a_call_can_be_passed_over_or_ended(page: Page, served: Served) -> None:
    served.engine.reply = saying(CALL, "All right.", CALL)
    begin(page, served, "calculate")
    send(page, "Compute.")
    expect(page.locator(".call-buttons")).to_be_visible()
    send(page, "Never mind.")
    expect(page.locator(".message.last")).to_contain_text("All right.")
    expect(page.locator(".call-buttons")).to_have_count(0)
    expect(page.locator(".call")).to_contain_text("Not run")
    send(page, "Compute again.")
    page.click(".message.last .call [data-act=stop]")
    expect(page.locator(".message.last .call")).to_contain_text("Not run")
    expect(page.locator(".call-buttons")).to_have_count(0)


def test_what_a_call_says_is_text_and_nothing_of_it_is_unseen(page: Page, served: Served) -> None:
    hostile = "<img src=x onerror=document.title='no'>\u202egnp\u200b"
    served.engine.reply = saying(hermes("count_text", text=hostile), "Counted.")
    begin(page, served, "count_text")
    send(page, "Count.")
    expect(page.locator(".call dd")).to_have_text(
        "<img src=x onerror=document.title='no'>\\u202egnp\\u200b"
    )
    page.click("[data-act=call-run]")
    expect(page.locator(".message.last")).to_contain_text("Counted.")
    assert page.title() != "no"


def test_the_inspector_has_the_tools(page: Page, served: Served) -> None:
    begin(page, served, "calculate", "roll_dice")
    send(page, "Hello")
    expect(page.locator(".message.assistant.complete")).to_be_visible()
    page.click("#composer-count")
    row = page.locator(".context-list li").first
    expect(row).to_contain_text("Tools")
    expect(row).to_contain_text("calculate, roll_dice")


def test_a_server_that_does_not_come_up_is_named_where_tools_are_chosen(
    page: Page, served: Served
) -> None:
    path = served.ctx.settings.user_data_dir / "mcp.json"
    path.write_text('{"mcpServers": {"lost": {"command": "no-such-command-here"}}}')
    choose(page, served)
    expect(page.locator("fieldset", has_text="MCP server lost")).to_contain_text(
        "no-such-command-here"
    )
    expect(page.locator(".tool-row")).not_to_have_count(0)


@pytest.mark.parametrize(("theme", "size"), [("light", "phone"), ("dark", "wide")])
def test_cards_and_the_list_have_no_serious_fault(
    page: Page, served: Served, theme: str, size: str
) -> None:
    page.add_init_script(f"localStorage.setItem('lantern-theme', '{theme}')")
    page.set_viewport_size(SIZES[size])
    served.engine.reply = saying(CALL, f"Done. {CALL}")
    choose(page, served)
    page.check(".tool-row input[name=calculate]")
    faults = serious_faults(page)
    page.click(".sheet >> text=Close")
    send(page, "Compute.")
    page.click("[data-act=call-run]")
    expect(page.locator("[data-act=call-run]")).to_be_visible()
    page.click(".call summary")
    assert faults + serious_faults(page) == []


def test_without_the_extension_the_menu_has_no_tools(page: Page, serve: Serve) -> None:
    with serve() as served:
        page.goto(served.url)
        expect(page.locator("body[data-tools=off]")).to_be_visible()
        page.click("#composer-more")
        expect(page.locator(".menu")).to_be_visible()
        expect(page.locator(".menu")).not_to_contain_text("Tools…")
