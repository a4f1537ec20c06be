"""llama.ipynb, cell by cell in a real kernel, with the starter and without a share link."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jupyter_client.manager import KernelManager

from modules.settings import ROOT
from tests.starter import provide_starter

pytestmark = [pytest.mark.starter, pytest.mark.timeout(600)]

PARTS = ("modules", "presets", "prompts", "characters", "server.py", "download-model.py",
         "requirements.txt", "training")  # fmt: skip
CELL_S = 240


class Notebook:
    """The code cells of llama.ipynb by their id, and a kernel to run them in."""

    def __init__(self, kernel: KernelManager) -> None:
        cells = json.loads((ROOT / "llama.ipynb").read_text())["cells"]
        self.cells = {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "code"}
        self.kernel = kernel
        self.client = kernel.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, source: str) -> Iterator[tuple[str, str]]:
        """What a cell shows, as (kind, text), until it has ended; an error in it is one here."""
        request = self.client.execute(source, allow_stdin=False)
        ends = time.monotonic() + CELL_S
        while time.monotonic() < ends:
            message = self.client.get_iopub_msg(timeout=CELL_S)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != request:
                continue
            if kind == "stream":
                yield "text", content["text"]
            elif kind == "display_data":
                yield "html", content["data"].get("text/html", "")
            elif kind == "error" and content["ename"] != "KeyboardInterrupt":
                pytest.fail("\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                return
        pytest.fail("the cell did not end")

    def output(self, source: str, kind: str = "text") -> str:
        return "".join(text for shown, text in self.run(source) if shown == kind)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A copy of the program with the starter already downloaded, and a kernel in it."""
    folder = tmp_path_factory.mktemp("lantern")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    starter = provide_starter()
    shutil.copytree(starter, folder / "models" / starter.name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LANTERN_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LANTERN_LISTEN_PORT": "0",
        "LANTERN_CPU": "1",
    }
    kernel = KernelManager()
    kernel.start_kernel(cwd=str(folder), env=environment)
    opened = Notebook(kernel)
    yield opened
    opened.client.stop_channels()
    kernel.shutdown_kernel(now=True)


def address_in(text: str) -> str:
    found = re.search(r"^Page:  (http://\S+)$", text.replace("\r", ""), re.MULTILINE)
    return found[1] if found else ""


def said(url: str) -> str:
    """A reply, as soon as the model is loaded."""
    for _ in range(1200):
        models: list[Any] = httpx.get(f"{url}/v1/models").json()["data"]
        if models:
            break
        time.sleep(0.1)
    body = {"model": models[0]["id"], "prompt": "The capital of France is", "max_tokens": 4,
            "temperature": 0}  # fmt: skip
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120).json()
    return str(answer["choices"][0]["text"])


def test_there_are_four_cells(notebook: Notebook) -> None:
    assert list(notebook.cells) == ["install", "download", "server", "launch"]


def test_the_first_cells_install_and_download(notebook: Notebook) -> None:
    assert "ERROR" not in notebook.output(notebook.cells["install"])
    assert "SmolLM2-135M-Instruct" in notebook.output(notebook.cells["download"])


def test_the_third_cell_serves_until_it_is_interrupted(notebook: Notebook) -> None:
    source = notebook.cells["server"]
    assert "python server.py --share" in source
    text, page = "", ""
    notebook.output('MODEL = "starter"')
    for _, piece in notebook.run(source.replace("--share ", "")):
        text += piece
        if not page and (page := address_in(text)):
            assert "Paris" in said(page)
            notebook.kernel.interrupt_kernel()
    assert page, text
    assert "Traceback" not in text
    with pytest.raises(httpx.ConnectError):
        httpx.get(page)


def test_the_fourth_cell_serves_beside_the_notebook_and_can_be_run_again(
    notebook: Notebook,
) -> None:
    source = notebook.cells["launch"]
    assert "# lantern.stop()" in source
    notebook.output('MODEL = "starter"')
    for _ in range(2):
        frame = notebook.output(source, "html")
        (page,) = re.findall(r'src="(http://127\.0\.0\.1:\d+)', frame)
        assert "Paris" in said(page)
        notebook.output("lantern.stop()")
        with pytest.raises(httpx.ConnectError):
            httpx.get(page)
