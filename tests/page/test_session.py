"""The Session tab, as its owner and a guest use it."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from modules.settings import ROOT, Origins
from tests.page.test_accessibility import SIZES, serious_faults
from tests.starter import provide_starter

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

PARTS = ("interface", "settings", "extensions", "access", "report", "log")


@pytest.fixture
def file(served: Served, tmp_path: Path) -> Path:
    """The settings.yaml of the served one, so that none of the user's is written."""
    file = tmp_path / "settings.yaml"
    file.write_text("# mine\n")
    served.ctx.host.origins = Origins(file=file, sources={"model_dir": "flag"})
    return file


@pytest.fixture
def tab(page: Page, served: Served, file: Path) -> Page:
    open_tab(page, served.url)
    return page


def open_tab(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("body[data-engine=ready]", timeout=120_000)
    page.get_by_role("tab", name="Session", exact=True).click()
    expect(page.locator("#session-tab")).to_be_visible()


def show(page: Page, part: str) -> None:
    page.locator(f"#session-nav [data-part={part}]").click()
    expect(page.locator(f"#session-{part}")).to_be_visible()


def send(page: Page, text: str = "Hi") -> None:
    page.get_by_role("tab", name="Text generation", exact=True).click()
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")


# -- settings ---------------------------------------------------------------------------


def test_a_setting_is_checked_saved_and_waits_for_a_restart(tab: Page, file: Path) -> None:
    port = tab.locator("#setting-of-listen_port")
    port.fill("99999")
    port.blur()
    said = tab.locator("[data-setting=listen_port] .session-said")
    expect(said).to_have_text("--listen-port cannot be 99999. Use a number from 0 to 65535.")
    save = tab.locator("#settings-bar").get_by_role("button", name="Save")
    expect(save).to_be_disabled()
    port.fill("7999")
    port.blur()
    tab.locator("#setting-of-cpu").check()
    save.click()
    expect(tab.locator("#settings-pending")).to_contain_text("CPU, Listen port: saved")
    expect(said).to_have_text("Now 7860; 7999 after a restart.")
    expect(tab.locator("#settings-bar")).to_be_hidden()
    assert file.read_text() == "# mine\nlisten_port: 7999\ncpu: true\n"
    tab.get_by_role("button", name="Reset Listen port").click()
    expect(port).to_have_value("7860")
    save.click()
    expect(tab.locator("#settings-bar")).to_be_hidden()
    assert file.read_text() == "# mine\ncpu: true\n"


def test_settings_that_contradict_each_other_are_told_and_not_saved(tab: Page, file: Path) -> None:
    tab.locator("#setting-of-load_in_8bit").check()
    tab.locator("#setting-of-load_in_4bit").check()
    bar = tab.locator("#settings-bar")
    bar.get_by_role("button", name="Save").click()
    expect(bar).to_contain_text("--load-in-8bit and --load-in-4bit contradict each other.")
    bar.get_by_role("button", name="Discard").click()
    expect(tab.locator("#setting-of-load_in_8bit")).not_to_be_checked()
    assert file.read_text() == "# mine\n"


def test_a_setting_is_found_by_its_words(tab: Page) -> None:
    tab.fill("#settings-find", "certificate")
    expect(tab.locator("#settings-rows .session-row")).to_have_count(2)
    tab.fill("#settings-find", "")
    tab.check("#settings-set")
    expect(tab.locator("#setting-of-model_dir")).to_be_visible()
    expect(tab.locator("#setting-of-cpu")).to_have_count(0)


def test_a_secret_is_written_and_never_shown(tab: Page, file: Path) -> None:
    key = tab.locator("#setting-of-api_key")
    key.fill("a-long-key")
    key.blur()
    tab.locator("#settings-bar").get_by_role("button", name="Save").click()
    expect(tab.locator("#settings-pending")).to_contain_text("API key")
    assert "api_key: a-long-key" in file.read_text()
    tab.reload()
    open_tab(tab, tab.url)
    expect(key).to_have_attribute("placeholder", re.compile("^set;"))
    assert "a-long-key" not in tab.content()


# -- the browser's own ------------------------------------------------------------------


def test_what_is_chosen_is_in_effect_at_once_and_stays(tab: Page, served: Served) -> None:
    show(tab, "interface")
    tab.select_option("#taste-theme", "dark")
    expect(tab.locator(":root[data-theme=dark]")).to_have_count(1)
    tab.select_option("#taste-enter", "breaks")
    tab.uncheck("#taste-figures")
    tab.check("#taste-wide")
    send(tab)
    expect(tab.locator("#composer-text")).to_have_value("Hi\n")
    tab.press("#composer-text", "Shift+Enter")
    expect(tab.locator(".message.assistant.complete")).to_have_count(1)
    expect(tab.locator(".message.assistant .stats")).to_be_hidden()
    tab.reload()
    expect(tab.locator(":root[data-theme=dark][data-wide=on]")).to_have_count(1)
    open_tab(tab, served.url)
    show(tab, "interface")
    tab.select_option("#taste-theme", "system")
    expect(tab.locator(":root[data-theme=light]")).to_have_count(1)
    tab.emulate_media(color_scheme="dark")
    expect(tab.locator(":root[data-theme=dark]")).to_have_count(1)


def test_the_end_of_a_reply_is_heard_where_that_is_chosen(tab: Page) -> None:
    tab.evaluate(
        """() => {
          window.tones = 0;
          const start = OscillatorNode.prototype.start;
          OscillatorNode.prototype.start = function (...when) {
            window.tones += 1;
            return start.apply(this, when);
          };
        }"""
    )
    send(tab)
    expect(tab.locator(".message.assistant.complete")).to_have_count(1)
    assert tab.evaluate("window.tones") == 0
    tab.get_by_role("tab", name="Session", exact=True).click()
    show(tab, "interface")
    tab.check("#taste-sound")
    heard = tab.evaluate("window.tones")
    assert heard > 0, "one hears what one chose"
    send(tab)
    expect(tab.locator(".message.assistant.complete")).to_have_count(2)
    assert tab.evaluate("window.tones") > heard


# -- access -----------------------------------------------------------------------------


def enter(page: Page, served: Served) -> None:
    """As a guest, who comes by the link."""
    page.set_extra_http_headers({"x-forwarded-for": "203.0.113.9"})
    page.goto(f"{served.url}/?token={served.ctx.access.token}")
    page.wait_for_selector("body[data-engine=ready]", timeout=120_000)


def test_links_are_masked_until_asked_and_can_be_renewed(page: Page, serve: Any) -> None:
    with serve(listen=True) as served:
        served.ctx.host.addresses["From other machines"] = "http://lamp:7860"
        before = served.ctx.access.token
        open_tab(page, served.url)
        show(page, "access")
        links = page.locator("#access-links")
        expect(links).to_contain_text("http://lamp:7860/?token=••••••")
        expect(page.locator("#access-visitors")).to_contain_text("You, on this machine")
        guest = page.context.browser.new_context().new_page()
        enter(guest, served)
        expect(page.locator("#access-visitors")).to_contain_text("Guest 1")
        page.click("#access-show")
        expect(links).to_contain_text(before)
        page.click("#access-renew")
        page.get_by_role("dialog").get_by_role("button", name="Make new ones").click()
        expect(links).not_to_contain_text(before)
        expect(links).to_contain_text(served.ctx.access.token)
        expect(guest.locator("body")).to_contain_text("needs the token")
        guest.context.close()


def test_a_guest_sees_a_sentence_chooses_how_it_looks_and_leaves(page: Page, serve: Any) -> None:
    with serve(listen=True) as served:
        enter(page, served)
        page.get_by_role("tab", name="Session", exact=True).click()
        expect(page.locator("#session-guest")).to_contain_text("are for the owner")
        expect(page.locator("#session-nav button:visible")).to_have_count(1)
        page.select_option("#taste-size", "large")
        expect(page.locator(":root[data-size=large]")).to_have_count(1)
        page.click("#log-out")
        expect(page.locator("body")).to_contain_text("needs the token")


# -- report and log ---------------------------------------------------------------------


def test_the_report_is_copied_and_the_log_goes_on_while_it_is_open(
    tab: Page, served: Served
) -> None:
    show(tab, "report")
    expect(tab.locator("#report-text")).to_contain_text("### Machine")
    tab.click("#report-copy")
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("### Lantern\n- version")
    host = served.ctx.host
    host.follow_logs()
    try:
        show(tab, "log")
        logging.getLogger("modules.lamp").warning("the lamp is hot, token=abcdef123")
        logging.getLogger("modules.lamp").error("the lamp is broken")
        lines = tab.locator("#log-lines .log-line")
        expect(lines).to_contain_text(["the lamp is hot, token=•••", "the lamp is broken"])
        tab.select_option("#log-level", "3")
        expect(lines).to_have_count(1)
        tab.click("#log-copy")
        copied = tab.evaluate("navigator.clipboard.readText()")
        assert "ERROR modules.lamp: the lamp is broken" in copied
        assert "hot" not in copied
    finally:
        host.log.close()


# -- looked at --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theme", "size"), [("light", "phone"), ("dark", "phone"), ("dark", "wide"), ("light", "wide")]
)
def test_no_part_has_a_serious_fault(
    page: Page, served: Served, file: Path, theme: str, size: str
) -> None:
    page.add_init_script(f"localStorage.setItem('lantern-theme', '{theme}')")
    page.set_viewport_size(SIZES[size])
    open_tab(page, served.url)
    faults = []
    for part in PARTS:
        show(page, part)
        page.wait_for_timeout(400)  # for what it fetches
        faults += [f"{part}: {fault}" for fault in serious_faults(page)]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults == []


def test_a_notebook_has_no_restart(tab: Page) -> None:
    expect(tab.locator("#restart-button")).to_be_disabled()
    expect(tab.locator("#settings-about")).to_contain_text("In a notebook, run stop()")


# -- the real thing ---------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Iterator[str]:
    """server.py as a user starts it, with the starter; returns its address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    (tmp_path / "settings.yaml").write_text("# mine\n")
    process = subprocess.Popen(
        [sys.executable, "server.py", "--listen-port", str(port), "--cpu",
         "--settings", str(tmp_path / "settings.yaml"),
         "--model-dir", str(provide_starter().parent), "--lora-dir", str(tmp_path / "loras"),
         "--user-data-dir", str(tmp_path / "user_data")],
        cwd=ROOT,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    yield url
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.mark.starter
def test_a_restart_keeps_the_reply_loads_the_model_and_brings_the_page_back(
    page: Page, program: str
) -> None:
    page.goto(program)
    page.wait_for_selector("body[data-engine=ready]", timeout=120_000)
    page.fill("#composer-text", "Tell me a very long story about a lamp.")
    page.press("#composer-text", "Enter")
    reply = page.locator(".message.assistant .rendered .block")
    expect(reply).to_contain_text(re.compile(r"\w+ \w+ \w+"), timeout=60_000)
    page.get_by_role("tab", name="Session", exact=True).click()
    show(page, "settings")
    page.locator("#setting-of-ctx_size").fill("1024")
    page.locator("#setting-of-ctx_size").blur()
    page.locator("#settings-bar").get_by_role("button", name="Save").click()
    page.locator("#settings-pending").get_by_role("button", name="Restart…").click()
    page.get_by_role("dialog").get_by_role("button", name="Restart").click()
    expect(page.locator("#restart-note")).to_contain_text("comes back by itself")
    said = page.locator(".toast").get_by_text("Lantern has restarted")
    expect(said).to_be_visible(timeout=120_000)
    expect(page.locator("#setting-of-ctx_size")).to_have_value("1024")
    expect(page.locator("#settings-pending")).to_be_empty()
    expect(page.locator("body[data-engine=ready] #strip-model")).to_contain_text(
        "context 1,024", timeout=120_000
    )
    page.get_by_role("tab", name="Text generation", exact=True).click()
    expect(reply.first).to_contain_text(re.compile(r"\w+ \w+ \w+"))
