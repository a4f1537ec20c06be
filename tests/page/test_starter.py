"""The whole program: `python server.py`, the starter model, the page, OpenAI's client."""

from __future__ import annotations

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
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from playwright.sync_api import Page, expect

from tests.starter import provide_starter

pytestmark = [pytest.mark.browser, pytest.mark.starter]

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Program:
    """A running server.py."""

    url: str
    process: subprocess.Popen[str]

    def worker(self) -> int:
        """The process id of the engine worker."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                parent = re.search(r"PPid:\s+(\d+)", status.read_text())
                command = (status.parent / "cmdline").read_text()
            except OSError:
                continue
            ours = parent is not None and int(parent[1]) == self.process.pid
            if ours and "modules.engine.worker" in command:
                return int(status.parent.name)
        raise AssertionError("there is no engine worker")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """As a user starts it, with the starter already fetched."""
    models = provide_starter().parent
    user_data = tmp_path_factory.mktemp("user_data")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "server.py", "--listen-port", str(port), "--cpu",
         "--model-dir", str(models), "--user-data-dir", str(user_data)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    yield Program(url, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert f"Page:  {url}" in output
    assert "Traceback" not in output


def open_greedy(page: Page, program: Program, *, endless: bool = False) -> None:
    params = {"temperature": 0, "repetition_penalty": 1, "max_new_tokens": 40}
    if endless:
        params |= {"max_new_tokens": 4000, "ban_eos_token": True}
    page.context.add_init_script(f"localStorage['lantern-params'] = '{json.dumps(params)}'")
    page.goto(program.url)
    page.wait_for_selector("body[data-engine=ready]", timeout=120_000)


def send(page: Page, text: str) -> None:
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")


def test_the_starter_knows_the_capital_of_france_in_the_page(page: Page, program: Program) -> None:
    open_greedy(page, program)
    send(page, "What is the capital of France?")
    reply = page.locator(".message.assistant.complete")
    expect(reply).to_contain_text("Paris", timeout=60_000)
    expect(reply.locator(".stats")).to_contain_text("tok/s")


def test_the_starter_knows_it_through_the_openai_client_too(program: Program) -> None:
    client = openai.OpenAI(base_url=f"{program.url}/v1", api_key="none")
    chunks = list(
        client.chat.completions.create(
            model="SmolLM2-135M-Instruct",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_tokens=40,
            stream=True,
        )
    )
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "Paris" in "".join(texts)
    assert len([text for text in texts if text]) > 3


def test_a_killed_worker_leaves_the_text_and_is_loaded_again(page: Page, program: Program) -> None:
    open_greedy(page, program, endless=True)
    send(page, "Tell a long story about a lantern and a lighthouse.")
    expect(page.locator(".message.assistant.streaming .block").first).to_be_visible()
    page.wait_for_function(
        "() => document.querySelector('.message.assistant .rendered').innerText.length > 20"
    )
    os.kill(program.worker(), signal.SIGKILL)
    cut = page.locator(".message.assistant.cut")
    expect(cut).to_contain_text("This reply was cut.")
    assert len(cut.locator(".rendered").inner_text()) > 10
    expect(page.locator("#notice")).to_contain_text("killed")
    page.click("#notice button")
    page.wait_for_selector("body[data-engine=ready]", timeout=120_000)
    page.click("[data-act=new-chat]")
    send(page, "What is the capital of France?")
    expect(page.locator(".message.assistant").last).to_contain_text("Paris", timeout=60_000)


def test_two_people_stream_at_once_and_a_stop_ends_only_ones_own(
    page: Page, program: Program
) -> None:
    open_greedy(page, program, endless=True)
    send(page, "Count from one to one hundred in words.")
    other = page.context.new_page()
    other.goto(program.url)
    other.wait_for_selector("body[data-engine=ready]")
    send(other, "Tell a long story about the sea.")
    expect(other.locator(".message.assistant.streaming .block").first).to_be_visible()
    expect(page.locator(".message.assistant.streaming .block").first).to_be_visible()
    other.click("#stop")
    expect(other.locator(".message.assistant.stopped")).to_be_visible()
    length = len(page.locator(".message.assistant").inner_text())
    page.wait_for_function(
        "n => document.querySelector('.message.assistant').innerText.length > n + 20", arg=length
    )
    page.click("#stop")
    expect(page.locator(".message.assistant.stopped")).to_be_visible()
