"""Extensions in the page: switched on and off, their widgets, their faults, and those shipped."""

from __future__ import annotations

import contextlib
import json
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from modules.settings import ROOT, Origins
from tests.page.test_accessibility import SIZES, serious_faults

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

Serve = Callable[..., contextlib.AbstractContextManager["Served"]]
MINE = '''
    """Says it louder."""
    params = {"display_name": "Louder", "mark": "!", "fails": False}

    def ui():
        import gradio as gr
        mark = gr.Textbox(params["mark"], label="Mark of Louder")
        def keep(text):
            if text == "fail":
                raise ValueError("not this")
            params["mark"] = text
        mark.change(keep, mark, None)

    def custom_css():
        return ".message.assistant .who { letter-spacing: 3px; }"

    def custom_js():
        return "document.body.dataset.louder = lantern.name;"

    def output_modifier(string, state):
        if params["fails"]:
            raise ValueError("no more")
        return string.upper() + params["mark"]
'''


@pytest.fixture
def served(serve: Serve, tmp_path: Path) -> Iterator[Served]:
    """Lantern with one extension of the test's own that is on, and those that are shipped."""
    folder = tmp_path / "extensions"
    shutil.copytree(ROOT / "extensions", folder, ignore=shutil.ignore_patterns("__pycache__"))
    own(folder, "louder", MINE)
    with serve(extension_dir=folder, extensions=("louder",)) as served:
        file = tmp_path / "settings.yaml"
        file.write_text("extensions: [louder]\n")
        served.ctx.host.origins = Origins(file=file, argv=("--extension-dir", str(folder)))
        yield served


def own(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir()
    (folder / name / "script.py").write_text(textwrap.dedent(source), "utf-8")


def open_page(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    expect(page.locator("body[data-extensions=told]")).to_be_visible()


def open_list(page: Page) -> None:
    page.get_by_role("tab", name="Session", exact=True).click()
    page.locator("#session-nav [data-part=extensions]").click()
    expect(page.locator(".extension")).not_to_have_count(0)


def card(page: Page, name: str) -> Locator:
    return page.locator(f".extension[data-extension={name}]")


def switch(page: Page, name: str, word: str) -> None:
    card(page, name).get_by_role("switch").click()
    expect(card(page, name).locator(".extension-state")).to_have_text(word)


def send(page: Page, text: str = "Hi") -> Locator:
    """Send a message, and return its reply."""
    page.get_by_role("tab", name="Text generation", exact=True).click()
    count = page.locator(".message.assistant.complete").count()
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.complete")).to_have_count(count + 1)
    return page.locator(".message.last")


# -- the list ---------------------------------------------------------------------------


def test_one_is_switched_off_and_on_and_acts_on_replies(page: Page, served: Served) -> None:
    open_page(page, served)
    expect(send(page)).to_contain_text("IS PARIS.!")
    open_list(page)
    expect(page.locator("#session-nav [data-part=extensions]")).to_contain_text("1")
    switch(page, "louder", "off")
    expect(send(page)).to_contain_text("is Paris.")
    open_list(page)
    switch(page, "louder", "on")
    expect(card(page, "louder")).to_contain_text("Its widgets come with a restart.")
    card(page, "louder").locator("summary").click()
    mark = card(page, "louder").locator("[data-param=mark] input")
    mark.fill("?")
    mark.blur()
    expect(card(page, "louder")).to_contain_text("Changed until Lantern ends: mark.")
    card(page, "louder").get_by_role("button", name="Keep").click()
    expect(card(page, "louder")).not_to_contain_text("Changed until")
    assert "louder-mark: '?'" in served.ctx.host.origins.file.read_text()
    expect(send(page)).to_contain_text("IS PARIS.?")


def test_one_that_fails_is_named_with_its_line_and_the_reply_is_there(
    page: Page, served: Served
) -> None:
    open_page(page, served)
    open_list(page)
    card(page, "louder").locator("summary").click()
    card(page, "louder").locator("[data-param=fails] input").check()
    expect(send(page)).to_contain_text("is Paris.")
    open_list(page)
    expect(card(page, "louder").locator(".extension-state")).to_have_text("failed")
    told = card(page, "louder").locator(".extension-told.fault")
    expect(told).to_contain_text(
        "output_modifier raised ValueError: no more (line 22 of script.py)"
    )
    expect(told).to_contain_text("Correct its script.py, then switch it on again.")


def test_what_was_kept_off_is_off_at_the_next_start(page: Page, served: Served) -> None:
    open_page(page, served)
    open_list(page)
    switch(page, "louder", "off")
    expect(card(page, "louder")).to_contain_text("The next start has it on.")
    card(page, "louder").get_by_role("button", name="Keep it off").click()
    expect(card(page, "louder")).not_to_contain_text("The next start")
    assert "louder" not in served.ctx.host.origins.file.read_text()


def test_another_tab_follows(page: Page, served: Served) -> None:
    open_page(page, served)
    open_list(page)
    served.do(lambda: served.ctx.extensions.fail("louder", "ui", "broke"))
    expect(card(page, "louder").locator(".extension-state")).to_have_text("failed")


# -- what they add ----------------------------------------------------------------------


def test_widgets_styles_and_scripts_are_in_the_page_and_go_with_their_extension(
    page: Page, served: Served
) -> None:
    open_page(page, served)
    expect(page.locator("body[data-louder=louder]")).to_be_visible()
    reply = send(page)
    expect(reply.locator(".who")).to_have_css("letter-spacing", "3px")
    page.get_by_role("tab", name="Parameters", exact=True).click()
    page.locator("#extension-block-louder > button").click()
    box = page.get_by_label("Mark of Louder")
    expect(box).to_have_value("!")
    box.fill("+")
    expect(send(page)).to_contain_text("IS PARIS.+")
    page.reload()
    page.get_by_role("tab", name="Parameters", exact=True).click()
    page.locator("#extension-block-louder > button").click()
    expect(page.get_by_label("Mark of Louder")).to_have_value("+")
    page.get_by_label("Mark of Louder").fill("fail")
    expect(page.get_by_text("The extension Louder failed: raised ValueError")).to_be_visible()
    open_list(page)
    switch(page, "louder", "off")
    page.get_by_role("tab", name="Parameters", exact=True).click()
    expect(page.locator("#extension-block-louder")).to_be_hidden()
    page.get_by_role("tab", name="Text generation", exact=True).click()
    expect(page.locator(".message.last .who")).not_to_have_css("letter-spacing", "3px")


@pytest.mark.parametrize(
    ("code", "said"), [("let 1x;", "Syntax"), ("nothing.at.all();", "nothing is not defined")]
)
def test_a_broken_script_breaks_nothing_else(
    code: str, said: str, browser: Browser, served: Served
) -> None:
    own(served.ctx.settings.extension_dir, "abad", f"def custom_js(): return {code!r}\n")
    page = browser.new_page()  # whose errors are looked at by nobody
    open_page(page, served)
    open_list(page)
    switch(page, "abad", "on")
    expect(page.locator(".toast.fault")).to_contain_text("The script of abad failed in this page")
    expect(card(page, "abad").locator(".extension-told.fault")).to_contain_text(said)
    expect(page.locator("body[data-louder=louder]")).to_be_visible()
    expect(send(page)).to_contain_text("IS PARIS.!")
    page.close()


# -- those that are shipped -------------------------------------------------------------


def test_tokens_are_coloured_while_it_is_on_and_tell_their_alternatives(
    page: Page, served: Served
) -> None:
    served.engine.reply = lambda request: "**The** capital `of` France\n\n- is Paris."
    open_page(page, served)
    open_list(page)
    switch(page, "louder", "off")
    switch(page, "perplexity_colors", "on")
    reply = send(page)
    expect(reply.locator(".tinted")).not_to_have_count(0)
    expect(page.locator("#token-legend li")).to_have_count(4)
    reply.locator(".tinted", has_text="capital").hover()
    expect(page.locator("#token-tip")).to_contain_text("90.5 %")
    expect(page.locator("#token-tip tr")).to_have_count(5)
    text = reply.locator(".rendered").inner_text()
    page.reload()
    expect(page.locator(".message.last .tinted", has_text="Paris")).to_be_visible()
    assert page.locator(".message.last .rendered").inner_text() == text
    open_list(page)
    card(page, "perplexity_colors").locator("summary").click()
    likely = card(page, "perplexity_colors").locator("[data-param=likely] input")
    likely.fill("0.95")
    likely.blur()
    page.get_by_role("tab", name="Text generation", exact=True).click()
    expect(page.locator(".message.last .tinted:not(.plain)")).not_to_have_count(0)
    open_list(page)
    switch(page, "perplexity_colors", "off")
    page.get_by_role("tab", name="Text generation", exact=True).click()
    expect(page.locator(".message.last .rendered strong")).to_have_text("The")
    expect(page.locator(".tinted, #token-legend")).to_have_count(0)


def test_a_reply_is_kept_edited_undone_and_listed_for_a_training(
    page: Page, served: Served
) -> None:
    file = served.ctx.settings.paths.datasets / "from-chats.jsonl"
    open_page(page, served)
    open_list(page)
    switch(page, "louder", "off")
    switch(page, "chat_to_dataset", "on")
    reply = send(page)
    reply.get_by_role("button", name="Keep", exact=True).click()
    expect(reply.get_by_role("button", name="✓ Kept")).to_have_attribute("aria-pressed", "true")
    expect(reply).to_contain_text("1 row in from-chats.jsonl")
    page.locator(".toast").get_by_role("button", name="Undo").click()
    expect(reply.get_by_role("button", name="Keep", exact=True)).to_be_visible()
    assert not file.exists()
    reply.get_by_role("button", name="Edit and keep…").click()
    reply.get_by_label("What the row says").fill("It is Paris.")
    reply.get_by_role("button", name="Keep", exact=True).last.click()
    expect(reply.get_by_role("button", name="✓ Kept, edited")).to_be_visible()
    page.reload()
    expect(reply.get_by_role("button", name="✓ Kept, edited")).to_be_visible()
    assert [m["content"] for m in json.loads(file.read_text())["messages"]] == [
        "Hi", "It is Paris.",
    ]  # fmt: skip
    page.get_by_role("tab", name="Training", exact=True).click()
    expect(page.locator("#tab-training")).to_contain_text("from-chats.jsonl")


def test_versions_that_are_rated_differently_are_exported_as_pairs(
    page: Page, served: Served
) -> None:
    open_page(page, served)
    open_list(page)
    switch(page, "louder", "off")
    switch(page, "chat_to_dataset", "on")
    reply = send(page)
    reply.get_by_role("button", name="Not", exact=True).click()
    expect(reply.get_by_role("button", name="Not")).to_have_attribute("aria-pressed", "true")
    served.engine.reply = lambda request: "Paris!"
    reply.get_by_role("button", name="Regenerate").click()
    expect(reply).to_contain_text("2/2")
    reply.get_by_role("button", name="Keep", exact=True).click()
    reply.get_by_role("button", name="Export 1 pair").click()
    expect(page.locator("#toasts")).to_contain_text("1 pair in user_data/preferences")
    (pair,) = (served.ctx.settings.user_data_dir / "preferences").iterdir()
    assert json.loads(pair.read_text())["chosen"] == [{"role": "assistant", "content": "Paris!"}]


@pytest.mark.parametrize(("theme", "size"), [("light", "phone"), ("dark", "wide")])
def test_list_bar_and_colours_have_no_serious_fault(
    page: Page, served: Served, theme: str, size: str
) -> None:
    page.add_init_script(f"localStorage.setItem('lantern-theme', '{theme}')")
    page.set_viewport_size(SIZES[size])
    open_page(page, served)
    open_list(page)
    switch(page, "perplexity_colors", "on")
    switch(page, "chat_to_dataset", "on")
    card(page, "perplexity_colors").locator("summary").click()
    faults = serious_faults(page)
    reply = send(page)
    reply.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator("#token-legend")).to_be_visible()
    assert faults + serious_faults(page) == []
