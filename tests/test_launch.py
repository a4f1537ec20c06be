"""A launch from Python, as a notebook does it, and with a share link."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio import tunneling

from modules.errors import LanternError, SettingsError
from modules.settings import ROOT
from modules.ui.background import Running
from server import launch

SAYS_A_LINK = """#!/usr/bin/env python3
import time
print("start proxy success: http://abc123.tunnel.example", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine that the tests run on."""
    for name in [name for name in os.environ if name.startswith("LANTERN_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    return {
        "user_data_dir": tmp_path / "user_data",
        "model_dir": tmp_path / "models",
        "lora_dir": tmp_path / "loras",
        "no_starter": True,
        "listen_port": 0,
    }


@pytest.fixture
def frpc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of frp's client, which tells a link and leads nowhere."""
    path = tmp_path / "frpc"
    path.write_text(SAYS_A_LINK)
    path.chmod(0o755)
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(tunneling, "CHECKSUMS", {tunneling.BINARY_URL: digest})


@pytest.fixture
def shared(folders: dict[str, Any], frpc: None) -> Iterator[Running]:
    with launch(share=True, share_server_address="tunnel.example:7000", **folders) as running:
        yield running


# -- from Python ------------------------------------------------------------------------


def test_a_launch_serves_until_it_is_stopped_and_another_one_follows(
    folders: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ports = []
    for _ in range(2):
        running = launch(**folders)
        assert httpx.get(running.url + "/").status_code == 200
        assert f"Page:  {running.url}\n" in capsys.readouterr().out
        assert (running.share_url, running.page_url) == ("", running.url)
        ports.append(running.url)
        running.stop()
        running.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(running.url + "/")
        folders["listen_port"] = int(running.url.rpartition(":")[2])
    assert ports[0] == ports[1]


def test_a_launch_on_a_taken_port_says_so_and_leaves_the_first_alone(
    folders: dict[str, Any],
) -> None:
    with launch(**folders) as running:
        port = int(running.url.rpartition(":")[2])
        with pytest.raises(SettingsError, match=f"port {port}"):
            launch(**folders | {"listen_port": port})
        assert httpx.get(running.url + "/").status_code == 200


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"modle": "x"}, "Did you mean model"),
        ({"listen_port": "many"}, "listen_port"),
        ({"gradio_auth": "nobody"}, "user:password"),
        ({"ssl_keyfile": "key.pem"}, "--ssl-certfile"),
        ({"character": "Nobody"}, "Nobody"),
    ],
)
def test_a_wrong_setting_is_a_sentence_and_the_port_is_free_again(
    setting: dict[str, Any], said: str, folders: dict[str, Any]
) -> None:
    with pytest.raises(LanternError, match=said):
        launch(**folders | setting)


def test_behind_a_proxy_the_page_has_the_address_that_leads_there(
    folders: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with launch(subpath="/proxy/7860/", admin_remote=True, **folders) as running:
        said = capsys.readouterr().out
        assert running.page_url.startswith("/proxy/7860/?token=")
        assert f"Behind the proxy, for yourself:  {running.page_url}\n" in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_with_a_certificate_the_page_is_served_by_https(
    folders: dict[str, Any], tmp_path: Path
) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    with launch(ssl_keyfile=key, ssl_certfile=certificate, **folders) as running:
        assert running.url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=certificate)
        with httpx.Client(verify=trusted, headers={"origin": running.url}) as client:
            assert client.get(running.url + "/").status_code == 200
            assert client.post(running.url + "/page/chats").status_code == 200


# -- with a share link ------------------------------------------------------------------


def test_a_share_link_has_its_line_after_the_page_and_the_token(
    folders: dict[str, Any], frpc: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with launch(share=True, share_server_address="tunnel.example:7000", **folders) as running:
        link = running.share_url
    assert link.startswith("http://abc123.tunnel.example/?token=")
    lines = capsys.readouterr().out.splitlines()
    assert lines.index(f"Page:  {running.url}") < lines.index(f"Share:  {link}")


@pytest.mark.parametrize("host", ["abc123.tunnel.example", "127.0.0.1", "localhost"])
def test_what_comes_through_the_tunnel_is_never_the_owner(shared: Running, host: str) -> None:
    token = shared.share_url.partition("?")[2]
    port = shared._launch.access.public_port
    headers = {"host": host}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as visitor:
        for path in ("/", "/config", "/page/models", "/page/events", "/gradio_api/info"):
            assert visitor.get(path).status_code == 401
        assert visitor.get("/v1/models").status_code == 401
        cookies = visitor.get(f"/?{token}").cookies
        visitor.cookies.update({"lantern_token": cookies["lantern_token"]})
        assert visitor.get("/").status_code == 200
        assert visitor.get("/page/models").status_code == 403


def test_a_server_without_internet_says_what_else_leads_here(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "server.py", "--share", "--no-starter", "--listen-port", "0"]
    command += ["--user-data-dir", str(tmp_path / "data"), "--model-dir", str(tmp_path / "models")]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, text=True)
    try:
        assert server.stdout is not None
        lines = iter(server.stdout)
        page = next(line for line in lines if line.startswith("Page:  ")).split()[1]
        said = next(line for line in lines if line.startswith("No share link: "))
        port = page.rpartition(":")[2]
        assert "cdn-media.huggingface.co cannot be reached" in said
        assert f"ssh -L {port}:127.0.0.1:{port} " in said
        assert httpx.get(page).status_code == 200
    finally:
        server.terminate()
        server.wait(20)
