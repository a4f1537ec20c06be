"""What the ui() of extensions adds to the page, and who may use it."""

from __future__ import annotations

import asyncio
import dataclasses
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI

from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.extensions.calls import Deadlines
from modules.settings import Settings
from modules.ui.web import make_access
from server import build_app, build_context
from tests.test_authorisation import Site, blocks_of, join, outcome, serving

SECRET = "the-key-of-an-extension"
WIDGETS = f'''
    params = {{"key": "{SECRET}", "said": "", "fails": False}}

    def ui():
        import gradio as gr
        key = gr.Textbox(params["key"], label="Key of widgets")
        press = gr.Button("Press")
        def keep(text):
            if text == "fail":
                raise ValueError("not this")
            params["key"] = text
        key.change(keep, key, None)
        press.click(lambda text: (params.update(said=text), text)[1], key, key)
        async def later(text: str, request: gr.Request):
            params["said"] = f"later {{text}}"
        press.click(later, key, None)
        def many(text):
            for i in range(2):
                yield f"{{text}} {{i}}"
        press.click(many, key, key)
        gr.Textbox(lambda: params["key"], label="Made when opened")
'''
BROKEN = {
    "raises": "gr.Textbox(label='half'); raise ValueError('no')",
    "hangs": "gr.Textbox(label='half')\n    while True: pass",
    "leaves a block open": "gr.Row().__enter__(); gr.Textbox(label='half'); 1 / 0",
    "could be called by anybody": "gr.FileExplorer(label='half')",
}


Page = tuple[AppContext, FastAPI]


@pytest.fixture
def page(settings: Settings, engine: FakeEngine, tmp_path: Path) -> Callable[..., Page]:
    """The application with these extensions on."""

    def page(up: threading.Event | None = None, **sources: str) -> Page:
        for name, source in sources.items():
            folder = tmp_path / "extensions" / name
            folder.mkdir(parents=True)
            (folder / "script.py").write_text(textwrap.dedent(source), "utf-8")
        launched = dataclasses.replace(
            settings, extension_dir=tmp_path / "extensions", extensions=tuple(sources)
        )
        ctx = build_context(launched, engine, make_access(launched))
        ctx.extensions.deadlines = Deadlines(setup_s=2.0)
        return ctx, build_app(ctx, lambda ctx: None)

    return page


def labels(app: FastAPI) -> list[str]:
    return [getattr(block, "label", None) or "" for block in blocks_of(app).blocks.values()]


@pytest.mark.parametrize("fault", BROKEN)
def test_what_fails_to_build_leaves_nothing_and_the_others_are_there(
    fault: str, page: Callable[..., Page]
) -> None:
    body = f"import gradio as gr\ndef ui():\n    {BROKEN[fault]}\n"
    ctx, app = page(before=WIDGETS, broken=body, after="import gradio as gr\ndef ui():\n"
                    "    gr.Slider(label='Slider of after')\n")  # fmt: skip
    assert "half" not in labels(app)
    assert {"Key of widgets", "Slider of after", "Text to send"} <= set(labels(app))
    states = {info.name: info.state for info in ctx.extensions.infos()}
    assert states == {"before": "on", "broken": "failed", "after": "on"}
    layout = blocks_of(app).get_config_file()["layout"]
    assert set(placed(layout)) <= set(blocks_of(app).blocks), "nothing is placed that is not there"


def placed(layout: Any) -> Iterator[int]:
    for child in layout.get("children", ()):
        yield child["id"]
        yield from placed(child)


def test_one_that_wants_a_tab_gets_one(page: Callable[..., Page]) -> None:
    tabbed = "params = {'display_name': 'My tab', 'is_tab': True}\n" + textwrap.dedent(WIDGETS)
    tabbed = tabbed.replace('\nparams = {"key"', '\nparams |= {"key"')
    _, app = page(tabbed=tabbed)
    tabs = [b.label for b in blocks_of(app).blocks.values() if isinstance(b, gr.Tab)]
    assert "My tab" in tabs and tabs.index("My tab") < tabs.index("Session")


# -- events -----------------------------------------------------------------------------


@pytest.fixture
def site(settings: Settings, engine: FakeEngine, tmp_path: Path) -> Iterator[Site]:
    """With --listen, an extension with widgets, and guests."""
    folder = tmp_path / "extensions" / "widgets"
    folder.mkdir(parents=True)
    (folder / "script.py").write_text(textwrap.dedent(WIDGETS), "utf-8")
    launched = dataclasses.replace(
        settings, extension_dir=tmp_path / "extensions", extensions=("widgets",), listen=True,
        admin_remote=True,
    )  # fmt: skip
    ctx = build_context(launched, engine, make_access(launched))
    asyncio.run(ctx.extensions.enable("widgets"))  # which --listen withholds
    up = threading.Event()
    app = build_app(ctx, lambda ctx: up.set())
    with serving(app, up) as url:
        yield Site(url, ctx, app, "token")


def said(ctx: AppContext) -> str:
    (script,) = ctx.extensions.plugins()
    return str(script.params["said"])


def own_events(site: Site) -> dict[int, dict[str, Any]]:
    """The events of the extension, with what a browser would send."""
    ids = {b._id for b in blocks_of(site.app).blocks.values()
           if getattr(b, "label", None) in ("Key of widgets", "Made when opened")}  # fmt: skip
    return {
        number: {"fn_index": number, "data": ["mine"] * len(fn.inputs)}
        for number, fn in blocks_of(site.app).fns.items()
        if fn.fn and {b._id for b in (*fn.inputs, *fn.outputs)} & ids
    }


def told(client: httpx.Client, event: dict[str, Any], session: str) -> str:
    assert join(client, event, session).status_code == 200
    return outcome(client, session)


def test_a_guest_gets_nothing_done_by_an_event_of_an_extension(site: Site) -> None:
    found = own_events(site)
    assert len(found) >= 6, "change, three clicks, and two that fill in"
    with site.guest() as guest:
        for number, event in found.items():
            text = told(guest, event, f"guest-{number}")
            assert SECRET not in text
    assert (said(site.ctx), site.ctx.extensions.plugins()[0].params["key"]) == ("", SECRET)


def test_nobody_without_a_login_or_with_a_forged_one_is_heard(site: Site) -> None:
    for stranger in (site.nobody(), site.forged()):
        with stranger:
            for event in own_events(site).values():
                assert join(stranger, event, "strange").status_code == 401
    assert said(site.ctx) == ""


def test_the_owner_gets_everything_done(site: Site) -> None:
    with site.remote_owner() as owner:
        texts = [told(owner, event, f"owner-{n}") for n, event in own_events(site).items()]
    assert "Only the owner" not in "".join(texts)
    assert any("mine 1" in text for text in texts), "the generator went on to its end"
    assert said(site.ctx) in ("mine", "later mine")


def test_the_page_has_no_value_in_it_and_the_owner_is_told_it(site: Site) -> None:
    with site.guest() as guest, site.remote_owner() as owner:
        assert SECRET not in guest.get("/").text
        assert SECRET not in guest.get("/config").text
        assert SECRET not in guest.get("/gradio_api/info").text
        fills = [event for event in own_events(site).values() if not event["data"]]
        assert not any("Only" in told(guest, event, f"g-{i}") for i, event in enumerate(fills))
        assert any(SECRET in told(owner, event, f"o-{i}") for i, event in enumerate(fills))


def test_the_owner_is_filled_in_what_the_param_is_now(site: Site) -> None:
    asyncio.run(site.ctx.extensions.set_param("widgets", "key", "another"))
    with site.remote_owner() as owner:
        fills = [event for event in own_events(site).values() if not event["data"]]
        texts = [told(owner, event, f"o-{i}") for i, event in enumerate(fills)]
    assert any("another" in text for text in texts) and not any(SECRET in t for t in texts)


def test_a_fault_of_a_handler_is_one_sentence_with_the_name(site: Site) -> None:
    fns = blocks_of(site.app).fns
    change = next(n for n in own_events(site) if getattr(fns[n].fn, "__name__", "") == "keep")
    with site.remote_owner() as owner:
        text = told(owner, {"fn_index": change, "data": ["fail"]}, "failing")
    assert "The extension widgets failed: raised ValueError: not this (line" in text
    assert "Traceback" not in text
    assert site.ctx.extensions.is_on("widgets")


def test_widgets_of_what_was_switched_off_do_nothing(site: Site) -> None:
    asyncio.run(site.ctx.extensions.disable("widgets"))
    asyncio.run(site.ctx.extensions.enable("widgets"))
    with site.remote_owner() as owner:
        texts = [told(owner, event, f"o-{n}") for n, event in own_events(site).items()
                 if event["data"]]  # fmt: skip
    assert all("Restart Lantern" in text for text in texts)
    assert said(site.ctx) == ""
