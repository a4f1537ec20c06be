"""The page below a path of another server: a Jupyter's proxy, or an nginx."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from tests.page.proxy import proxying

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

PREFIX = "/user/me/proxy/7860"
WORDS = " ".join(f"word{i}" for i in range(400))


@pytest.fixture(params=["jupyter", "nginx"])
def seen(
    request: pytest.FixtureRequest, page: Page,
    serve: Callable[..., AbstractContextManager[Served]],
) -> Iterator[tuple[Served, str]]:  # fmt: skip
    """A server, and the page's address behind the proxy; what goes elsewhere or fails is told."""
    wrong: list[str] = []

    def check(url: str, status: int) -> None:
        if PREFIX not in url or status >= 400:
            wrong.append(f"{status} {url}")

    page.on("response", lambda response: check(response.url, response.status))
    with (
        serve(subpath=PREFIX) as served,
        proxying(served.url, PREFIX, like=request.param) as url,
    ):
        yield served, f"{url}/?token={served.ctx.access.token}"
        page.goto("about:blank")
    assert wrong == []


def test_chat_streams_is_stopped_and_kept(page: Page, seen: tuple[Served, str]) -> None:
    served, url = seen
    served.engine.reply = lambda request: WORDS
    served.engine.delay = 0.05
    page.goto(url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    page.fill("#composer-text", "Count.")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.streaming")).to_contain_text("word3")
    page.keyboard.press("Escape")
    expect(page.locator(".message.assistant.stopped")).to_contain_text("word3")
    page.reload()
    expect(page.locator(".message.assistant.stopped")).to_contain_text("word3")


def test_default_mode_streams_through_gradio(page: Page, seen: tuple[Served, str]) -> None:
    served, url = seen
    served.engine.reply = lambda request: "four five six"
    page.goto(url)
    page.click("button[role=tab]:has-text('Default')")
    page.fill("#default-text textarea", "one two three")
    page.click("#default-generate")
    expect(page.locator("#default-raw textarea")).to_have_value(re.compile("four five six"))


def test_a_login_opens_the_page_of_a_guest(
    page: Page, serve: Callable[..., AbstractContextManager[Served]]
) -> None:
    with (
        serve(subpath=PREFIX, gradio_auth="ann:right-password", multi_user=True) as served,
        proxying(served.url, PREFIX, like="nginx") as url,
    ):
        page.goto(f"{url}/")
        page.fill("input[name=username]", "ann")
        page.fill("input[name=password]", "wrong-password")
        page.press("input[name=password]", "Enter")
        expect(page.locator("[role=alert]")).to_contain_text("wrong")
        page.fill("input[name=username]", "ann")
        page.fill("input[name=password]", "right-password")
        page.press("input[name=password]", "Enter")
        expect(page.locator("#strip-model")).to_contain_text("Tiny")
        page.fill("#composer-text", "Hi")
        page.press("#composer-text", "Enter")
        expect(page.locator(".message.assistant.complete")).to_contain_text("Paris")
        page.goto("about:blank")
    with served.ctx.chats._stores.kept.transaction() as db:
        assert [tuple(row) for row in db.execute("SELECT DISTINCT owner FROM chats")] == [
            ("login-ann",)
        ]
