"""The Model tab, as its owner uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Locator, Page, expect

from modules.loader.machine import Card, Machine
from modules.ui import models, planning
from tests.downloads import FILES, SIZE
from tests.folders import TINY, put_llama, put_lora
from tests.hub import Hub
from tests.loader.folders import make_model
from tests.loader.shapes import GPTQ, LLAMA_2_7B, LLAMA_2_70B

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

CARD = Card(0, "NVIDIA GeForce RTX 3090", 24 * 10**9, 23 * 10**9, (8, 6))


@pytest.fixture(autouse=True)
def a_machine_with_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Machine((CARD,), ram_total=64 * 10**9, ram_free=40 * 10**9, disk_free=300 * 10**9)
    monkeypatch.setattr(planning, "this_machine", lambda *_, **__: there)


@pytest.fixture
def tab(page: Page, served: Served) -> Iterator[Page]:
    """The tab, open, with a model of each kind in the list; Tiny is loaded."""
    folder = served.ctx.settings.model_dir
    put_llama(folder, "Tiny", TINY)
    put_llama(folder, "Large", LLAMA_2_70B)
    put_llama(folder, "Packed", LLAMA_2_7B, GPTQ)
    make_model(folder, "Broken", model__safetensors=b"{")
    open_tab(page, served)
    expect(page.locator(".model-card h2")).to_have_text("Tiny")
    yield page


def open_tab(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#strip-model")).to_contain_text("Tiny")
    page.get_by_role("tab", name="Model", exact=True).click()


def choose(page: Page, name: str) -> None:
    page.locator(f"#model-rows li[data-name={name}] button").click()
    expect(page.locator(".model-card h2")).to_have_text(name)


def row(page: Page, name: str) -> Locator:
    return page.locator(f"#model-rows li[data-name={name}]")


def meter(page: Page) -> Locator:
    return page.get_by_role("meter", name=CARD.name)


def used(page: Page) -> int:
    return int(meter(page).get_attribute("aria-valuenow") or "")


# -- models -----------------------------------------------------------------------------


def test_the_list_and_the_card_say_what_a_model_is(tab: Page) -> None:
    expect(row(tab, "Tiny")).to_contain_text("loaded")
    expect(row(tab, "Packed")).to_contain_text(re.compile(r"GPTQ 4-bit · 3\.\d\d GB.*fits"))
    expect(row(tab, "Large")).to_contain_text("does not fit")
    expect(row(tab, "Broken")).to_contain_text("damaged")
    facts = tab.locator(".model-facts")
    expect(facts).to_contain_text("9 heads, 3 key/value heads")
    choose(tab, "Packed")
    expect(facts).to_contain_text("groups of 128")
    choose(tab, "Broken")
    expect(tab.locator(".model-problem")).to_contain_text("Download this file again.")
    expect(tab.get_by_role("button", name="Load", exact=True)).to_be_disabled()


def test_a_model_that_comes_into_the_folder_is_found_by_refresh(tab: Page, served: Served) -> None:
    put_llama(served.ctx.settings.model_dir, "Newcomer", TINY)
    tab.click("#model-refresh")
    choose(tab, "Newcomer")


def test_only_options_that_fit_the_model_are_shown(tab: Page) -> None:
    expect(tab.get_by_label("Quantize while loading")).to_be_visible()
    expect(tab.get_by_label("Processor memory", exact=True)).to_be_hidden()
    tab.get_by_label("Use the processor's memory too").check()
    expect(tab.get_by_label("Processor memory", exact=True)).to_be_visible()
    tab.get_by_label("Device").select_option("processor")
    expect(tab.get_by_label("Use the processor's memory too")).to_be_hidden()
    choose(tab, "Packed")
    expect(tab.get_by_label("Compute in")).to_be_visible()
    expect(tab.get_by_label("Quantize while loading")).to_have_count(0)


def test_the_bar_moves_with_every_control(tab: Page) -> None:
    choose(tab, "Packed")
    whole = used(tab)
    slider = tab.get_by_label("Context", exact=True)
    slider.focus()
    slider.press("Home")
    expect(tab.get_by_label("Context in tokens")).to_have_value("256")
    expect(meter(tab)).not_to_have_attribute("aria-valuenow", str(whole))
    assert used(tab) < whole
    expect(tab.locator(".plan-legend")).to_contain_text(re.compile(r"KV cache1\.\d+ GB"))
    expect(tab.locator(".plan")).to_contain_text("KV cache for 3,072 tokens: room for 12 chats")
    expect(tab.get_by_label("KV cache in tokens")).to_have_value("3072")
    tab.get_by_role("button", name="As much as fits").click()
    expect(meter(tab)).to_have_attribute("aria-valuenow", str(whole))


def test_what_does_not_fit_is_refused_with_ways_that_do(tab: Page) -> None:
    choose(tab, "Large")
    load = tab.get_by_role("button", name="Load", exact=True)
    expect(load).to_be_disabled()
    expect(tab.locator(".plan-refusal")).to_contain_text(re.compile(r"Large needs 1\d\d"))
    tab.locator(".ways button").first.click()
    expect(load).to_be_enabled()
    expect(tab.locator(".plan-refusal")).to_have_count(0)


def test_a_load_shows_how_far_it_is_can_be_cancelled_and_ends_as_loaded(
    tab: Page, served: Served
) -> None:
    choose(tab, "Packed")
    served.engine.delay = 3600
    load = tab.get_by_role("button", name="Load", exact=True)
    load.click()
    expect(tab.locator(".model-status")).to_contain_text("50 % · Reading the weights")
    expect(load).to_be_disabled()
    served.engine.delay = 0.01
    tab.locator(".model-status").get_by_role("button", name="Cancel").click()
    expect(load).to_be_enabled()
    load.click()
    expect(row(tab, "Packed")).to_contain_text("loaded")
    expect(tab.locator(".model-status")).to_contain_text("Loaded:")
    tab.get_by_role("button", name="Unload").click()
    expect(row(tab, "Packed")).to_contain_text("fits")
    assert served.engine.state.phase == "empty"


def test_settings_are_saved_for_a_model_and_forgotten(tab: Page, served: Served) -> None:
    tab.get_by_label("Quantize while loading").select_option("8-bit")
    tab.get_by_role("button", name="Save settings for this model").click()
    expect(tab.locator(".model-keeping")).to_contain_text("Settings saved for this model")
    open_tab(tab, served)
    expect(tab.locator("#option-quantize option:checked")).to_have_text("8-bit")
    tab.get_by_role("button", name="Forget").click()
    expect(tab.locator("#option-quantize option:checked")).to_have_text("no")


# -- LoRAs ------------------------------------------------------------------------------


def test_a_lora_is_applied_weighed_and_removed(tab: Page, served: Served) -> None:
    def weights() -> list[tuple[str, float]]:
        return [(a.info.name, a.weight) for a in served.engine.state.adapters]

    expect(tab.locator("#adapter-rows")).to_contain_text("loras/ is empty")
    put_lora(served.ctx.settings.lora_dir, "pirate")
    tab.click("#adapters-refresh")
    expect(tab.locator(".adapter")).to_contain_text("LoRA of rank 8 · q_proj, v_proj")
    tab.get_by_role("button", name="Apply pirate").click()
    expect(tab.locator(".adapter")).to_contain_text("changes the logits by 13 %")
    slider = tab.get_by_label("Weight of pirate", exact=True)
    expect(slider).to_have_value("1")
    with tab.expect_response("**/page/adapters/weights"):
        slider.press("End")
    assert weights() == [("pirate", 2.0)]
    number = tab.get_by_label("Weight of pirate, as a number")
    with tab.expect_response("**/page/adapters/weights"):
        number.fill("-0.5")
        number.press("Enter")
    assert weights() == [("pirate", -0.5)]
    expect(slider).to_have_value("-0.5")
    tab.get_by_role("button", name="Remove pirate").click()
    expect(tab.get_by_role("button", name="Apply pirate")).to_be_enabled()
    assert weights() == []


# -- downloads --------------------------------------------------------------------------


def look(page: Page, model: str) -> None:
    page.fill("#download-name", model)
    page.press("#download-name", "Enter")


def test_a_model_is_looked_at_fetched_paused_and_listed_while_chat_goes_on(
    tab: Page, served: Served, hub: Hub
) -> None:
    config = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    hub.add("owner/name", FILES | {"config.json": config.encode(), "pytorch_model.bin": b"x"})
    look(tab, "owner/name")
    listing = tab.locator(".listing")
    expect(listing).to_contain_text("It goes to models/owner_name.")
    expect(listing).to_contain_text("1 left out")
    expect(listing).to_contain_text("free on the disk")
    assert hub.content_requests() == []
    hub.faults.pause_at = SIZE // 2
    listing.get_by_role("button", name="Download").click()
    download = tab.locator(".download")
    expect(download).to_contain_text("50 %")
    # Another tab shows it, chats meanwhile, and pauses it.
    open_tab(tab, served)
    expect(download).to_contain_text("50 %")
    tab.get_by_role("tab", name="Text generation").click()
    tab.fill("#composer-text", "Hello")
    tab.press("#composer-text", "Enter")
    expect(tab.locator(".message.assistant.complete")).to_contain_text("Paris")
    tab.get_by_role("tab", name="Model", exact=True).click()
    download.get_by_role("button", name="Pause").click()
    hub.faults.pause_at = -1
    hub.faults.go.set()
    hub.faults.delay_s, hub.faults.block = 0.02, 1000
    expect(download).to_contain_text("Paused")
    hub.faults.delay_s = 0
    download.get_by_role("button", name="Resume").click()
    expect(download).to_contain_text("Done")
    expect(row(tab, "owner_name")).to_be_visible()


def test_a_download_that_fails_says_what_is_missing_and_how_to_go_on(tab: Page, hub: Hub) -> None:
    look(tab, "owner/none")
    expect(tab.locator("#download-listing .fault")).to_contain_text("owner/none")
    hub.add("owner/name", FILES)
    look(tab, "owner/name")
    hub.faults.status = 404
    tab.locator(".listing").get_by_role("button", name="Download").click()
    expect(tab.locator(".download .file-list")).to_contain_text("model.safetensors")
    hub.faults.status = 0
    tab.get_by_role("button", name="Look again, and go on").click()
    expect(tab.locator(".listing")).to_be_visible()
    expect(tab.locator(".download")).to_have_count(0)


# -- who, and on what -------------------------------------------------------------------


def test_a_guest_is_told_whose_it_is(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_json = models.engine_json

    def as_for_a_guest(ctx: Any, *, admin: bool) -> dict[str, Any]:
        return engine_json(ctx, admin=False)

    monkeypatch.setattr(models, "engine_json", as_for_a_guest)
    open_tab(page, served)
    expect(page.locator("#model-guest")).to_be_visible()
    expect(page.locator("#model-owner")).to_be_hidden()


def test_on_a_telephone_everything_fits_and_can_be_hit(tab: Page, served: Served) -> None:
    put_lora(served.ctx.settings.lora_dir, "pirate")
    tab.set_viewport_size({"width": 360, "height": 760})
    tab.click("#adapters-refresh")
    expect(tab.locator(".adapter")).to_be_visible()
    outside, small = tab.evaluate(
        """() => {
          const box = (it) => it.getBoundingClientRect();
          const named = (found) => found.map((it) => it.outerHTML.slice(0, 80));
          const all = [...document.querySelectorAll(".model-tab *")];
          const seen = all.filter((it) => it.offsetParent);
          const targets = "button, select, summary, input:not([type=checkbox])";
          return [
            named(seen.filter((it) => box(it).right > innerWidth + 1)),
            named(seen.filter((it) => it.matches(targets) && box(it).height < 44)),
          ];
        }"""
    )
    assert (outside, small) == ([], [])


def test_a_chat_template_is_chosen_by_hand(tab: Page, served: Served) -> None:
    section = tab.get_by_role("region", name="Chat template")
    expect(section).to_contain_text("Checked: no fault found.")
    section.get_by_label("Template", exact=True).select_option("Alpaca")
    expect(section).to_contain_text("Chosen by hand.")
    expect(section.get_by_role("listitem").first).to_contain_text("departs from the model's own")
    assert served.ctx.templates.chosen("Tiny") == "alpaca"
    section.get_by_label("Template", exact=True).select_option("Automatic: the model's own")
    expect(section).to_contain_text("Checked: no fault found.")
