"""Chat mode, as a person uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from modules.errors import LanternError

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

WORDS = " ".join(f"word{i}" for i in range(400))


def open_page(page: Page, served: Served, path: str = "/") -> None:
    page.goto(served.url + path)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")


def send(page: Page, text: str) -> None:
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")


def answered(page: Page, text: str) -> None:
    expect(page.locator(".message.assistant.complete").last).to_contain_text(text)


def test_a_message_is_answered_with_figures(page: Page, served: Served) -> None:
    open_page(page, served)
    send(page, "What is the capital of France?")
    answered(page, "The capital of France is Paris.")
    expect(page.locator(".message.last .stats")).to_contain_text("tok/s")
    expect(page.locator(".message.last .stats")).to_contain_text("first token")
    expect(page.locator(".message.last .stats")).to_contain_text("of 2,048 tokens")
    expect(page.locator(".chat-row.current")).to_contain_text("What is the capital of France?")


def test_text_arrives_while_it_is_written_and_stop_keeps_it(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: WORDS
    served.engine.delay = 0.05
    open_page(page, served)
    send(page, "Count.")
    streaming = page.locator(".message.assistant.streaming")
    expect(streaming).to_contain_text("word3")
    early = len(streaming.inner_text())
    expect(streaming).to_contain_text("word12")
    assert len(page.locator(".message.assistant").inner_text()) > early
    page.keyboard.press("Escape")
    expect(page.locator(".message.assistant.stopped")).to_contain_text("word12")
    expect(page.locator("#send")).to_be_visible()
    assert "word399" not in page.locator(".message.assistant").inner_text()


def test_regenerate_makes_a_version_and_the_arrows_reach_the_first(
    page: Page, served: Served
) -> None:
    open_page(page, served)
    send(page, "Hello")
    answered(page, "Paris")
    served.engine.reply = lambda request: "Something else."
    page.click(".message.last [data-act=regenerate]")
    answered(page, "Something else.")
    expect(page.locator(".message.last .versions")).to_contain_text("2/2")
    page.click(".message.last [data-act=version-before]")
    answered(page, "Paris")


def test_continue_goes_on_where_the_reply_ended(page: Page, served: Served) -> None:
    open_page(page, served)
    send(page, "Hello")
    answered(page, "Paris.")
    served.engine.reply = lambda request: " And more."
    page.click(".message.last [data-act=continue]")
    answered(page, "Paris. And more.")
    assert served.engine.requests[-1].prompt.endswith("The capital of France is Paris.")


def test_an_edited_message_is_sent_anew_and_the_old_one_stays(page: Page, served: Served) -> None:
    open_page(page, served)
    send(page, "First question")
    answered(page, "Paris")
    page.keyboard.press("Alt+ArrowUp")
    page.fill(".editor textarea", "Second question")
    page.click(".editor >> text=Save and send")
    expect(page.locator(".message.user .rendered")).to_have_text("Second question")
    expect(page.locator(".message.user .versions")).to_contain_text("2/2")
    answered(page, "Paris")
    page.click(".message.user [data-act=version-before]")
    expect(page.locator(".message.user .rendered")).to_have_text("First question")


def test_a_deleted_message_comes_back_by_undo(page: Page, served: Served) -> None:
    open_page(page, served)
    send(page, "Hello")
    answered(page, "Paris")
    page.click(".message.last [data-act=delete]")
    expect(page.locator(".message.assistant")).to_have_count(0)
    page.click(".toast >> text=Undo")
    answered(page, "Paris")


def test_copy_takes_the_source_of_a_message(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: "Some *stressed* text"
    open_page(page, served)
    send(page, "Hello")
    answered(page, "Some stressed text")
    page.click(".message.last [data-act=copy]")
    expect(page.locator(".toast")).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "Some *stressed* text"


def test_markdown_code_and_formulas_are_drawn(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: (
        "**bold** $x^2$ <b>raw</b>\n\n```python\ndef f():\n    return 1\n```\n"
    )
    open_page(page, served)
    send(page, "Hello")
    answered(page, "bold")
    last = page.locator(".message.last")
    expect(last.locator("strong")).to_have_text("bold")
    expect(last.locator("math msup")).to_have_count(1)
    expect(last.locator(".code .k").first).to_have_text("def")
    expect(last).to_contain_text("<b>raw</b>")


def test_a_reply_goes_on_while_the_tab_is_reloaded(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: WORDS
    served.engine.delay = 0.02
    open_page(page, served)
    send(page, "Count.")
    expect(page.locator(".message.assistant.streaming")).to_contain_text("word5")
    page.reload()
    expect(page.locator(".message.assistant.streaming")).to_contain_text("word5")
    answered(page, "word399")
    assert served.engine.requests[1:] == []


def test_a_reply_is_stored_although_its_tab_was_closed(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: WORDS
    served.engine.delay = 0.005
    open_page(page, served)
    send(page, "Count.")
    expect(page.locator(".message.assistant.streaming")).to_contain_text("word2")
    url = page.url
    page.goto("about:blank")
    page.wait_for_timeout(500)
    page.goto(url)
    answered(page, "word399")


def test_two_tabs_on_one_chat_agree(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: WORDS
    served.engine.delay = 0.01
    open_page(page, served)
    send(page, "Count.")
    expect(page.locator(".message.assistant.streaming")).to_contain_text("word2")
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator(".message.assistant.streaming")).to_contain_text("word10")
    other.click("#stop")
    expect(page.locator(".message.assistant.stopped")).to_have_count(1)
    expect(other.locator(".message.assistant.stopped")).to_have_count(1)
    body = ".message.assistant .rendered"
    assert page.inner_text(body) == other.inner_text(body)


def test_a_dead_worker_is_said_and_the_next_message_works(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: WORDS
    served.engine.delay = 0.02
    open_page(page, served)
    send(page, "Count.")
    expect(page.locator(".message.assistant.streaming")).to_contain_text("word5")
    served.do(served.engine.die)
    expect(page.locator(".message.assistant.cut")).to_contain_text("word5")
    expect(page.locator(".message.assistant.cut")).to_contain_text("This reply was cut.")
    expect(page.locator("#notice")).to_contain_text("killed")
    expect(page.locator("#notice button")).to_have_text("Load again")


def test_without_a_model_the_message_is_kept_and_the_way_out_is_said(
    page: Page, served: Served
) -> None:
    open_page(page, served)
    error = LanternError("There is no model.", "Fetch one.")
    served.engine.load_error = error
    served.do(lambda: served.loop.create_task(served.engine.unload()))
    expect(page.locator("#notice")).to_contain_text("No model is loaded.")
    send(page, "Anybody?")
    expect(page.locator(".message.failed")).to_contain_text("No model is loaded.")
    expect(page.locator(".message.user")).to_contain_text("Anybody?")


def test_chats_are_listed_renamed_and_deleted_with_undo(page: Page, served: Served) -> None:
    open_page(page, served)
    send(page, "One")
    answered(page, "Paris")
    page.click("[data-act=new-chat]")
    expect(page.locator(".message")).to_have_count(0)
    send(page, "Two")
    answered(page, "Paris")
    expect(page.locator(".chat-row")).to_have_count(2)
    page.click(".chat-row.current [data-act=chat-menu]")
    page.click(".menu >> text=Rename")
    page.fill(".chat-row.current input", "Renamed")
    page.keyboard.press("Enter")
    expect(page.locator("#chat-title")).to_have_text("Renamed")
    page.click(".chat-row.current [data-act=chat-menu]")
    page.click(".menu >> text=Delete")
    expect(page.locator(".chat-row")).to_have_count(1)
    page.click(".toast >> text=Undo")
    expect(page.locator(".chat-row")).to_have_count(2)


def test_a_long_chat_says_before_sending_what_is_left_out(page: Page, served: Served) -> None:
    served.engine.context_length = 300
    open_page(page, served)
    served.do(lambda: served.loop.create_task(served.ctx.engine.load(_again(served))))
    for count, question in enumerate(("a " * 60, "b " * 60, "c " * 60), start=1):
        send(page, question)
        expect(page.locator(".message.assistant.complete")).to_have_count(count)
    page.fill("#composer-text", "d " * 60)
    expect(page.locator("#composer-note")).to_contain_text("left out")


def _again(served: Served) -> object:
    from modules.engine.protocol import LoadModel

    return LoadModel(str(served.ctx.settings.model_dir / "Tiny"))


def test_the_system_message_is_kept_and_sent(page: Page, served: Served) -> None:
    open_page(page, served)
    page.click("#system-button")
    page.fill("#system-text", "Answer like a pirate.")
    page.click("[data-act=system-save]")
    expect(page.locator("#system-editor")).to_be_hidden()
    send(page, "Hello")
    answered(page, "Paris")
    assert "Answer like a pirate." in served.engine.requests[-1].prompt
    page.reload()
    expect(page.locator("#system-button.set")).to_be_visible()


def test_html_from_the_model_is_not_run(page: Page, served: Served) -> None:
    served.engine.reply = lambda request: (
        "<img src=x onerror=\"document.title='owned'\"> "
        r"$\text{<img src=x onerror=document.title='owned'>}$"
    )
    open_page(page, served)
    send(page, "Hello")
    answered(page, "<img src=x")
    page.wait_for_timeout(300)
    assert page.title() == "Lantern"


def test_the_shortcut_sheet_opens_and_closes(page: Page, served: Served) -> None:
    open_page(page, served)
    page.click("#chat-title")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()


def test_on_a_phone_the_list_folds_and_the_composer_is_in_reach(page: Page, served: Served) -> None:
    page.set_viewport_size({"width": 390, "height": 780})
    open_page(page, served)
    expect(page.locator("#sidebar")).to_be_hidden()
    send(page, "Hello")
    answered(page, "Paris")
    box = page.locator("#composer").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 780
    page.click(".side-open")
    expect(page.locator("#sidebar")).to_be_visible()
