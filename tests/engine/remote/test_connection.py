"""The way to a server: certificates, and who is in between."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.engine.remote.address import ServerAddress
from modules.engine.remote.connection import Connection, Patience
from modules.errors import EngineError, WorkerDiedError
from tests.fake_vllm import fake_vllm
from tests.peers import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[str]:
    """A server whose certificate nobody vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        try:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True):
                pass
        except OSError:  # the client has hung up, or the test is over
            return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    thread.join(5)


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(stranger: str) -> None:
    connection = Connection(ServerAddress.of(stranger))
    with pytest.raises(EngineError, match=r"certificate of .* is not trusted") as caught:
        await connection.get(f"{stranger}/v1/models")
    assert "SSL_CERT_FILE" in caught.value.remedy
    await connection.close()


async def test_nobody_there_is_told() -> None:
    address = ServerAddress.of(f"http://127.0.0.1:{free_port()}")
    connection = Connection(address, Patience(connect=1.0))
    with pytest.raises(WorkerDiedError, match="does not answer"):
        await connection.get(f"{address.base}/models")
    await connection.close()


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with fake_vllm() as vllm:
        connection = Connection(ServerAddress.of(vllm.url))
        assert (await connection.get(f"{vllm.url}/v1/models"))["data"]
        await connection.close()


async def test_a_login_in_the_address_opens_the_server() -> None:
    with fake_vllm() as vllm:
        address = ServerAddress.of(vllm.url.replace("http://", "http://me:pw@"))
        connection = Connection(address)
        assert (await connection.get(f"{address.base}/models"))["data"]
        await connection.close()
        assert vllm.headers[-1]["authorization"] == "Basic bWU6cHc="
