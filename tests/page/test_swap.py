"""What the strip says when one model is loaded in the place of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from modules.errors import LoadFailedError
from modules.loader.options import LoadOptions
from modules.ui import models
from tests.loader.folders import make_model

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser


def load(served: Served, name: str, options: LoadOptions | None = None) -> None:
    make_model(served.ctx.settings.model_dir, name)
    served.do(lambda: models.load(served.ctx, name, options))


def test_a_failed_load_stays_visible_beside_the_model_that_is_back(
    page: Page, served: Served
) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    served.engine.load_error = LoadFailedError("Memory ran out.", "Choose a smaller model.")
    load(served, "Large")
    expect(page.locator("#notice")).to_contain_text("Memory ran out. Tiny is loaded again.")
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    page.reload()
    expect(page.locator("#notice")).to_contain_text("Tiny is loaded again.")
    page.click("#notice >> text=Dismiss")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_flag_that_was_passed_over_is_told_once(page: Page, served: Served) -> None:
    page.goto(served.url)
    load(served, "Other", LoadOptions(wbits=4))
    expect(page.locator("#notice")).to_contain_text("--wbits was passed over")
    expect(page.locator("#notice")).not_to_have_class("notice fault")
    page.click("#notice >> text=Dismiss")
    expect(page.locator("#notice")).to_be_hidden()


def test_after_a_cancelled_load_the_earlier_model_is_one_click_away(
    page: Page, served: Served
) -> None:
    make_model(served.ctx.settings.model_dir, "Tiny")
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    served.engine.delay = 3600
    load(served, "Slow")
    page.click("#strip-job [title=Cancel]")
    expect(page.locator("#notice button")).to_have_text("Load Tiny again")
    served.engine.delay = 0.01
    page.click("#notice button")
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    expect(page.locator("#notice")).to_be_hidden()
