"""Make the pictures in docs/images/: the real page, with the starter model.

    python docs/screenshots.py

Needs Chromium (apt-get install chromium) and playwright (requirements-dev.txt). Fetches the
starter if it is not in models/ yet. Chats and the LoRA that is trained are kept in a temporary
folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
PORT = 7897
URL = f"http://127.0.0.1:{PORT}/"
QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
)


def main() -> None:
    """Start a server of its own, and photograph it in light and dark."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as user_data:
        command = [sys.executable, "server.py", "--listen-port", str(PORT)]
        command += ["--user-data-dir", user_data, "--lora-dir", f"{user_data}/loras"]
        command += ["--extensions", "character_bias", "tools"]
        server = subprocess.Popen(command, cwd=ROOT)
        try:
            wait_for_page()
            photograph()
        finally:
            server.terminate()
            server.wait(20)


def wait_for_page() -> None:
    """Until the server answers."""
    for _ in range(300):
        try:
            urllib.request.urlopen(URL, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("The page did not come up.")


def photograph() -> None:
    """All pictures; the chats are made once."""
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(URL)
        page.wait_for_selector("body[data-engine=ready]", timeout=300_000)
        set_knobs(page, temperature="0", repetition_penalty="1", max_new_tokens="160")
        chat(page)
        write(page)
        train(page)
        for theme in ("light", "dark"):
            if theme == "dark":
                page.click("[data-act=theme]")
            for name, tab in (("chat", "Chat"), ("default", "Default"), ("notebook", "Notebook")):
                page.click("button[role=tab]:has-text('Text generation')")
                page.click(f"button[role=tab]:has-text('{tab}')")
                picture(page, f"{name}-{theme}")
            page.click("button[role=tab]:has-text('Parameters')")
            picture(page, f"parameters-{theme}")
            page.click("button[role=tab]:has-text('Model')")
            expect(page.locator("#tab-model")).to_contain_text("Memory", timeout=30_000)
            picture(page, f"model-{theme}")
            page.click("button[role=tab]:has-text('Training')")
            show_run(page)
            picture(page, f"training-{theme}")
            page.click("button[role=tab]:has-text('Session')")
            page.click("[data-part=extensions]")
            expect(page.locator("#session-extensions")).to_contain_text("Character bias")
            picture(page, f"session-{theme}")
        talk_to_a_character(page)
        browser.close()


def set_knobs(page: Page, **values: str) -> None:
    """So that the pictures can be made again: temperature 0, or a seed."""
    page.click("button[role=tab]:has-text('Parameters')")
    for name, value in values.items():
        if not page.locator(f"#knob-{name}").is_visible():
            page.click(f".knob-group:has(#knob-{name}) .knob-fold")
        box = page.locator(f"#knob-{name} input[type=number]")
        box.fill(value)
        box.blur()
    page.click("button[role=tab]:has-text('Text generation')")


def chat(page: Page) -> None:
    """A chat for each question."""
    for question in QUESTIONS:
        page.click("[data-act=new-chat]")
        page.fill("#composer-text", question)
        page.press("#composer-text", "Enter")
        page.wait_for_selector(".message.assistant.complete", timeout=120_000)
    page.click("#chat-title")


def talk_to_a_character(page: Page) -> None:
    """The gallery, a chat with somebody in it, its branches, and what goes into its request."""
    page.click("[data-act=theme]")
    set_knobs(page, temperature="0.7", repetition_penalty="1.15", max_new_tokens="90", seed="4")
    page.click("button[role=tab]:has-text('Chat')")
    page.click("#sidebar [data-act=characters]")
    picture(page, "characters-light")
    page.click(".card-choose:has-text('Tamsin')")
    page.wait_for_selector(".message.assistant")
    for question in ("Good evening. How is the sea tonight?", "What do you write in the log?"):
        page.fill("#composer-text", question)
        page.press("#composer-text", "Enter")
        page.wait_for_selector("#stop:visible")
        page.wait_for_selector("#send:visible", timeout=120_000)
    picture(page, "character-light")
    page.click("[data-act=tree]")
    picture(page, "branches-light")
    page.keyboard.press("Escape")
    page.click(".composer-row [data-act=context]")
    picture(page, "request-light")


def write(page: Page) -> None:
    """Something in the Default and Notebook modes."""
    page.click("button[role=tab]:has-text('Default')")
    page.select_option("#default-prompt", "Alpaca")
    expect(page.locator("#default-text textarea")).not_to_have_value("")
    page.click("#default-generate")
    expect(page.locator("#default-stats")).to_contain_text("prompt", timeout=120_000)
    page.click("button[role=tab]:has-text('Notebook')")
    page.fill(
        "#notebook-text textarea",
        "The lantern keeper climbed the last of the two hundred steps, and found the door "
        "already open.",
    )
    page.click("#notebook-generate")
    expect(page.locator("#notebook-stats")).to_contain_text("prompt", timeout=120_000)


def train(page: Page) -> None:
    """The example that comes with Lantern, to its end: minutes on an idle processor."""
    page.click("button[role=tab]:has-text('Training')")
    page.click("button:has-text('Try the example teach-lantern')")
    page.wait_for_selector(".row-text mark")
    page.click("#run-go")
    page.wait_for_selector(".run-head .word.done", timeout=3_600_000)


def show_run(page: Page) -> None:
    """The third step, where it stands after a run."""
    page.click("[data-step=run]")
    page.wait_for_selector(".run-charts svg path")


def picture(page: Page, name: str) -> None:
    """One picture, once nothing moves."""
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
