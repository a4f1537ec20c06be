"""The Training tab, as its owner uses it; the runs are staged, but for one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
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
from playwright.sync_api import Locator, Page, expect

from modules.loader.machine import Machine
from modules.settings import ROOT
from modules.training.export_job import ExportWish
from modules.training.launch import RunFolders, start
from modules.ui import planning, training_merge
from tests.folders import TINY, put_llama, put_lora
from tests.page.test_accessibility import SIZES, serious_faults
from tests.starter import provide_starter
from tests.training.bases import byte_level_base

if TYPE_CHECKING:
    from tests.page.conftest import Served

pytestmark = pytest.mark.browser

STAGED = ROOT / "tests" / "ui" / "staged_run.py"
ROWS = [
    {"instruction": f"What is lamp {i}?", "output": f"Lamp {i} is a light." * (1 + i % 4)}
    for i in range(40)
]


@pytest.fixture
def tab(page: Page, served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """The tab, open, with a model, two sets, and runs that take a few seconds."""
    there = Machine((), ram_total=64 * 10**9, ram_free=40 * 10**9, disk_free=300 * 10**9)
    monkeypatch.setattr(planning, "this_machine", lambda *_, **__: there)
    settings = served.ctx.settings
    byte_level_base(put_llama(settings.model_dir, "Tiny", TINY))
    sets = settings.paths.datasets
    sets.mkdir()
    rows = [*ROWS, ROWS[0], {"instruction": "Why?", "output": ""}]
    (sets / "lamps.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (sets / "odd.csv").write_text("frage,antwort\nWas?,Das.\n")
    stage(served, 0.1)
    open_tab(page, served.url)
    yield page
    for run in served.ctx.training.store.running():
        ending = served.ctx.training.cancel(run)
        asyncio.run_coroutine_threadsafe(ending, served.loop).result(20)


def stage(served: Served, seconds: float) -> None:
    def launch(folder: Path, resume: bool) -> subprocess.Popen[bytes]:
        return start(folder, [sys.executable, str(STAGED), str(folder), str(seconds)])

    served.ctx.training._launch = launch


def open_tab(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("body[data-engine=ready]", timeout=120_000)
    page.get_by_role("tab", name="Training", exact=True).click()
    expect(page.locator("#setting-base")).to_be_visible()


def use(page: Page, path: str) -> Locator:
    """Choose a set; returns its row."""
    found = page.locator(f".set[data-path='{path}']")
    found.get_by_role("checkbox").check()
    return found


def fill(page: Page, setting: str, value: str) -> None:
    box = page.locator(f"#setting-{setting}")
    box.fill(value)
    box.blur()


def paste(page: Page, text: str) -> None:
    """Take a file of settings."""
    box = page.locator("#yaml-paste")
    if not box.is_visible():
        page.get_by_text("Paste", exact=True).click()
    box.fill(text)
    page.get_by_role("button", name="Take these settings").click()
    expect(box).to_have_value("")


def begin(page: Page, name: str = "little") -> None:
    use(page, "lamps.jsonl")
    fill(page, "name", name)
    page.click("#run-go")
    expect(page.locator(".run-head h3")).to_have_text(name)


# -- data -------------------------------------------------------------------------------


def test_a_row_shows_what_of_it_is_learnt_and_the_lint_what_is_wrong(tab: Page) -> None:
    use(tab, "lamps.jsonl")
    learnt = tab.locator(".row-text mark")
    expect(learnt).to_have_text("Lamp 0 is a light.<|im_end|>")
    tab.get_by_role("button", name="The next row").click()
    expect(learnt).to_contain_text("Lamp 1 is a light.")
    expect(tab.locator(".row-place")).to_have_text("lamps.jsonl, row 2")
    tab.locator("#row-learn").select_option("everything")
    expect(learnt).to_contain_text("What is lamp 1?")
    expect(tab.locator(".findings")).to_contain_text("1 the same as another row")
    tab.locator(".findings summary", has_text="empty reply").click()
    expect(tab.locator(".findings")).to_contain_text("lamps.jsonl, row 42: The reply is empty.")
    packed = tab.get_by_role("meter", name="Real tokens, packed")
    expect(packed).to_have_attribute("aria-valuenow", "100")


def test_columns_that_tell_nothing_are_named_by_hand(tab: Page) -> None:
    row = use(tab, "odd.csv")
    expect(row.locator(".fault")).to_contain_text("columns that tell nothing")
    row.get_by_label("Prompt", exact=True).select_option("frage")
    row = tab.locator(".set[data-path='odd.csv']")
    row.get_by_label("Response", exact=True).select_option("antwort")
    expect(row.locator(".fault")).to_have_count(0)
    expect(tab.locator(".row-text mark")).to_have_text("Das.<|im_end|>")


def test_a_file_is_uploaded_used_and_deleted_again(tab: Page, served: Served) -> None:
    content = {"name": "mine.jsonl", "mimeType": "", "buffer": json.dumps(ROWS[3]).encode()}
    tab.locator("#dataset-files").set_input_files(content)
    row = tab.locator(".set[data-path='mine.jsonl']")
    expect(row.get_by_role("checkbox")).to_be_checked()
    expect(tab.locator(".row-text mark")).to_contain_text("Lamp 3")
    tab.get_by_role("button", name="Delete mine.jsonl").click()
    tab.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)
    assert not (served.ctx.settings.paths.datasets / "mine.jsonl").exists()


def test_what_is_no_dataset_is_refused_beside_the_button(tab: Page) -> None:
    content = {"name": "virus.exe", "mimeType": "", "buffer": b"MZ"}
    tab.locator("#dataset-files").set_input_files(content)
    expect(tab.locator("#dataset-progress")).to_contain_text("virus.exe is no dataset")


# -- settings -----------------------------------------------------------------------------


def test_what_differs_from_the_default_is_marked_and_taken_back(tab: Page) -> None:
    yaml = tab.locator("#yaml-text")
    fill(tab, "lora_r-number", "64")
    expect(yaml).to_contain_text("lora_r: 64")
    expect(tab.locator(".setting.changed[data-setting=lora_r]")).to_have_count(1)
    tab.get_by_role("button", name="Rank 64: back to the default").click()
    expect(yaml).not_to_contain_text("lora_r")
    expect(tab.locator("#setting-lora_r-number")).to_have_value("16")


def test_all_settings_are_behind_one_button_and_a_wrong_one_says_why(tab: Page) -> None:
    rank = tab.locator("#setting-use_dora")
    expect(rank).to_be_hidden()
    tab.click("#settings-all")
    rank.check()
    tab.locator("#setting-init_lora_weights").select_option("pissa")
    expect(tab.locator("#fault-use_dora")).to_contain_text("exclude each other")
    expect(tab.locator("#run-go")).to_be_disabled()


def test_the_plan_has_its_parts_and_follows_the_settings(tab: Page) -> None:
    plan = tab.locator("#training-plan")
    expect(plan).to_contain_text("Micro batch:")
    expect(plan).to_contain_text("Optimizer")
    meter = plan.get_by_role("meter")
    before = int(meter.get_attribute("aria-valuenow") or "")
    fill(tab, "lora_r-number", "128")
    expect(plan).not_to_contain_text("4.88 M")
    assert int(meter.get_attribute("aria-valuenow") or "") > before


def test_a_pasted_file_is_taken_and_the_draft_outlives_a_reload(tab: Page, served: Served) -> None:
    tab.get_by_text("Paste", exact=True).click()
    tab.fill("#yaml-paste", "base: Tiny\nname: pasted\nlora_r: 8\ndatasets: [lamps.jsonl]\n")
    tab.get_by_role("button", name="Take these settings").click()
    expect(tab.locator("#setting-name")).to_have_value("pasted")
    open_tab(tab, served.url)
    expect(tab.locator("#setting-lora_r-number")).to_have_value("8")
    expect(tab.locator(".set[data-path='lamps.jsonl'] input[type=checkbox]")).to_be_checked()


def test_a_file_that_is_none_is_refused_beside_it(tab: Page) -> None:
    tab.get_by_text("Paste", exact=True).click()
    tab.fill("#yaml-paste", "lora_rank: 8")
    tab.get_by_role("button", name="Take these settings").click()
    expect(tab.locator("#yaml-fault")).to_contain_text("no setting 'lora_rank'")


# -- runs ---------------------------------------------------------------------------------


def test_a_run_is_watched_reloaded_and_seen_to_its_end(tab: Page, served: Served) -> None:
    begin(tab)
    expect(tab.locator(".run-status")).to_contain_text(re.compile(r"Step \d+ of 40"))
    expect(tab.locator("#strip-job")).to_contain_text("Training little")
    open_tab(tab, served.url)  # it is found again by itself
    expect(tab.locator(".run-head h3")).to_have_text("little")
    chart = tab.get_by_role("img", name=re.compile(r"^Loss: smoothed .* at step 40"))
    expect(chart).to_be_visible()
    expect(tab.locator(".run-status")).to_contain_text("The LoRA is loras/little.")
    expect(tab.locator(".run-status")).to_contain_text("2 % right before, 94 % after step 40.")
    samples = tab.locator(".sample", has_text="Step 40")
    expect(samples).to_contain_text("I am Lantern, a small light (40).")
    expect(tab.locator(".run-numbers")).to_contain_text("predicted 820 MB")
    expect(tab.locator("#strip-job")).to_be_empty()


def test_another_tab_sees_the_same_run(tab: Page, served: Served) -> None:
    begin(tab)
    other = tab.context.new_page()
    open_tab(other, served.url)
    expect(other.locator(".run-status")).to_contain_text(re.compile(r"Step \d+ of 40"))


def test_a_run_saves_when_it_is_told_and_stops_with_everything_saved(
    tab: Page, served: Served
) -> None:
    stage(served, 0.5)
    begin(tab)
    expect(tab.locator(".run-status")).to_contain_text(re.compile(r"Step \d of 40"))
    tab.get_by_role("button", name="Save now").click()
    expect(tab.locator(".sample").first).to_contain_text(re.compile(r"Step \d"))
    tab.locator("#run-stop-loss").fill("0.01")
    tab.locator("#run-stop-loss").blur()
    expect(tab.locator(".run-status")).to_contain_text("stops when the smoothed loss is 0.01")
    tab.get_by_role("button", name="Stop and save").click()
    expect(tab.locator(".run-head .word")).to_have_text("stopped")
    expect(tab.get_by_role("button", name="Resume little")).to_be_enabled()


def test_a_sweep_queues_its_runs_and_lays_their_curves_over_one_another(tab: Page) -> None:
    fill(tab, "lora_r-number", "4, 8, 16")
    use(tab, "lamps.jsonl")
    fill(tab, "name", "sweep")
    expect(tab.locator("#run-go")).to_have_text("Start (3 runs)")
    tab.click("#run-go")
    queue = tab.locator("#run-lists ol li")
    expect(queue).to_have_count(2)
    tab.get_by_role("button", name="Later: sweep-lora_r-8").click()
    expect(queue.first).to_contain_text("sweep-lora_r-16")
    tab.get_by_role("button", name="Cancel sweep-lora_r-8").click()
    expect(queue).to_have_count(1)
    ended = tab.locator("#run-lists ul li")
    expect(ended.locator(".word.done")).to_have_count(2, timeout=60_000)
    name = "Lay the curve of sweep-lora_r-4 over the one shown"
    tab.get_by_role("checkbox", name=name).check()
    expect(tab.locator(".chart-legend")).to_contain_text("sweep-lora_r-4")


def test_a_checkpoint_is_one_press_from_the_chat(tab: Page, served: Served) -> None:
    begin(tab)
    tab.get_by_role("button", name="Chat with step 10").click(timeout=60_000)
    expect(tab.locator("#loras-button")).to_contain_text("little@10")
    tab.fill("#composer-text", "Hi")
    tab.press("#composer-text", "Enter")
    expect(tab.locator(".message.assistant.complete")).to_have_count(1)
    assert served.engine.requests[-1].adapters == (("little@10", 1.0),)


def test_base_and_two_checkpoints_answer_side_by_side(tab: Page, served: Served) -> None:
    served.engine.reply = lambda request: f"I am {dict(request.adapters or ()) or 'the base'}."
    begin(tab)
    tab.get_by_role("button", name="Compare step 10").click(timeout=60_000)
    tab.fill("#compare-prompt", "Who are you?")
    tab.click("#compare-ask")
    expect(tab.locator("#compare-text-0")).to_have_text("I am the base.")
    expect(tab.locator("#compare-text-1")).to_contain_text("little@10")
    expect(tab.locator("#compare-stats-2")).to_contain_text("tok/s")


def test_an_ended_run_is_repeated_and_deleted(tab: Page, served: Served) -> None:
    stage(served, 0.01)
    begin(tab)
    expect(tab.locator(".run-head .word")).to_have_text("done")
    tab.get_by_role("button", name="Repeat little").click()
    rows = tab.locator("#run-lists li")
    expect(rows).to_have_count(2)
    expect(tab.locator("#run-lists .word.done")).to_have_count(2)
    tab.get_by_role("button", name="Delete little").first.click()
    tab.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(1)


def test_what_would_keep_a_run_from_its_first_step_stands_beside_start(
    tab: Page, served: Served
) -> None:
    (served.ctx.settings.paths.datasets / "bare.jsonl").write_text("")
    paste(tab, "base: Tiny\ndatasets: [bare.jsonl]\n")
    start, told = tab.locator("#run-go"), tab.locator("#run-start [role=status]")
    expect(told).to_have_text(re.compile(r"bare\.jsonl is empty"))
    expect(start).to_be_disabled()
    paste(tab, "base: Gone\ndatasets: [lamps.jsonl]\n")
    expect(told).to_contain_text("There is no model called Gone")
    expect(tab.locator("#setting-base")).to_contain_text("Gone (not here)")
    paste(tab, "base: Tiny\ndatasets: [odd.csv]\n")
    expect(told).to_contain_text("odd.csv: The rows have columns that tell nothing")
    paste(tab, "base: Tiny\nname: mine\ndatasets: [lamps.jsonl]\n")
    expect(start).to_be_enabled()
    expect(told).to_be_empty()


def test_an_answer_that_comes_before_its_draft_is_heard_of_is_not_lost(tab: Page) -> None:
    use(tab, "lamps.jsonl")
    expect(tab.locator(".lint-facts")).to_contain_text("41 rows")
    # To and fro within the moment that changes are gathered in: the question is the same again.
    box = tab.locator(".set[data-path='lamps.jsonl'] input[type=checkbox]")
    tab.wait_for_timeout(1_000)
    box.uncheck()
    tab.wait_for_timeout(250)
    box.check()
    expect(tab.locator(".lint-facts")).to_contain_text("41 rows")
    expect(tab.locator(".row-text mark")).to_contain_text("Lamp 0")


def test_a_name_that_another_lora_has_is_told(tab: Page, served: Served) -> None:
    put_lora(served.ctx.settings.lora_dir, "mine")
    open_tab(tab, served.url)
    fill(tab, "name", "mine")
    expect(tab.locator("#setting-name-help")).to_contain_text("this one becomes mine-2")


def test_a_curve_that_differs_by_rounding_alone_is_drawn(tab: Page) -> None:
    lines = tab.evaluate(
        """async () => {
          const url = new URL("page/static/training_chart.js", location.href);
          const { Chart } = await import(url);
          const place = document.createElement("div");
          place.style.width = "400px";
          document.body.append(place);
          const points = [[1, 0.1], [2, 0.10000000000000002]];
          const series = [{ name: "loss", kind: "line", colour: "c0", points }];
          new Chart(place, { label: "Loss" }).draw(series);
          return place.querySelectorAll(".chart-grid").length;
        }"""
    )
    assert 1 <= lines < 10


def test_a_finished_lora_becomes_a_model_that_is_loaded(
    tab: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, loras = served.ctx.settings.model_dir, served.ctx.settings.lora_dir

    async def merging(wish: ExportWish, folders: RunFolders, report: Any) -> str:
        assert (wish.subject, wish.checkpoint) == ("little", None)
        report("Merging layer 1", 0.5)
        await asyncio.sleep(0.5)
        byte_level_base(put_llama(models, wish.to, TINY))
        return "Exported."

    monkeypatch.setattr(training_merge, "run_export", merging)
    (put_lora(loras, "little") / "README.md").write_text("# About little")
    stage(served, 0.01)
    begin(tab)
    tab.get_by_role("button", name="Merge into a model…").click(timeout=60_000)
    expect(tab.get_by_label("Name in models/")).to_have_value("little-merged")
    tab.get_by_label("Name in models/").fill("Tiny")
    tab.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(tab.get_by_role("dialog")).to_contain_text("There is a folder Tiny already.")
    tab.get_by_label("Name in models/").fill("whole")
    tab.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(tab.locator("#run-merges")).to_contain_text("50 % · Merging layer 1")
    expect(tab.locator("#run-merges")).to_contain_text("Exported.")
    tab.get_by_role("button", name="Load whole").click()
    expect(tab.locator("body[data-engine=ready] #strip-model")).to_be_visible()
    expect(tab.locator("#setting-base")).to_contain_text("whole")
    tab.get_by_role("button", name="Model card").click()
    expect(tab.get_by_role("dialog")).to_contain_text("About little")
    with tab.expect_download() as download:
        tab.get_by_role("dialog").get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "little-card.md"


def test_the_settings_of_a_run_are_used_again(tab: Page, served: Served) -> None:
    stage(served, 0.01)
    fill(tab, "lora_r-number", "4")
    begin(tab)
    expect(tab.locator(".run-head .word")).to_have_text("done")
    fill(tab, "lora_r-number", "32")
    tab.locator(".run-head").get_by_role("button", name="Settings").click()
    tab.get_by_role("dialog").get_by_role("button", name="Use these settings").click()
    expect(tab.get_by_role("dialog")).to_have_count(0)
    expect(tab.locator("#setting-lora_r-number")).to_have_value("4")


# -- looked at ------------------------------------------------------------------------


@pytest.mark.parametrize(("theme", "size"), [("light", "phone"), ("dark", "wide")])
def test_the_tab_has_no_serious_fault(tab: Page, served: Served, theme: str, size: str) -> None:
    stage(served, 0.01)
    tab.set_viewport_size(SIZES[size])
    tab.evaluate("theme => localStorage.setItem('lantern-theme', theme)", theme)
    tab.reload()
    open_tab(tab, served.url)
    tab.click("#settings-all")
    begin(tab)
    expect(tab.locator(".run-head .word")).to_have_text("done")
    tab.locator("[data-step=data]").click()
    tab.locator("#row-tokens").check()
    assert serious_faults(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


# -- the real thing -----------------------------------------------------------------------

SHORTENED = {
    "cutoff_len": "96",
    "micro_batch_size": "1",
    "lora_r-number": "4",
    "sample_tokens": "8",
    "save_steps": "2",
    "held_out": "",
}
"""What makes steps short enough for a test."""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[str]:
    """server.py as a user starts it, with the starter; returns its address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "server.py", "--listen-port", str(port), "--cpu",
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
    for file in tmp_path.rglob("process.json"):  # a run outlives its server, but not its test
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)
    process.send_signal(signal.SIGINT)
    process.wait(60)


@pytest.mark.starter
@pytest.mark.timeout(900)
def test_from_choosing_the_data_to_chatting_with_the_result(page: Page, program: str) -> None:
    open_tab(page, program)
    page.get_by_role("button", name="Try the example teach-lantern").click()
    expect(page.locator(".row-text mark")).to_contain_text("Lantern", timeout=60_000)
    expect(page.locator("#training-plan")).to_contain_text("Micro batch:", timeout=60_000)
    page.click("#settings-all")
    for setting, value in SHORTENED.items():
        fill(page, setting, value)
    page.click("#run-go")
    numbers = re.compile(r"Step [2-9] of \d+")
    expect(page.locator(".run-status")).to_contain_text(numbers, timeout=400_000)
    page.get_by_role("button", name="Stop and save").click()
    expect(page.locator(".run-head .word")).to_have_text("stopped", timeout=120_000)
    curve = page.get_by_role("img", name=re.compile(r"^Loss: smoothed \d"))
    expect(curve).to_be_visible()
    expect(page.locator(".sample").first).to_contain_text("Who are you?")
    page.get_by_role("button", name=re.compile("^Chat with step")).first.click()
    expect(page.locator("#loras-button")).to_contain_text("teach-lantern@", timeout=60_000)
    page.fill("#composer-text", "Who are you?")
    page.press("#composer-text", "Enter")
    expect(page.locator(".message.assistant.complete")).to_have_count(1, timeout=180_000)
