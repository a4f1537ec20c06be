"""The share link: a tunnel from a public address to this page, by Gradio's build of frp's client.

The program and the server are those of `gradio.tunneling`. It is started and watched here,
because Gradio's own loop waits for a line without a limit, and never ends with its program.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import re
import secrets
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import TunnelError
from modules.paths import write_atomically

if TYPE_CHECKING:  # imported below, so that only a launch that shares loads it
    import httpx2

    from modules.jobs import Job

__all__ = ["DEADLINE_S", "Tunnel", "other_ways"]

DEADLINE_S = 45.0
"""The most time from the first step to the link."""
_GRACE_S = 2.0
_MAX_LINES = 20
_OPENED = re.compile(r"start proxy success: (https?://)?([A-Za-z0-9.-]{1,253}(?::\d{1,5})?)\s*$")
# The client must not outlive a server that was killed: the port it leads to may become another
# program's.
_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True, slots=True)
class _Server:
    """Where the other end of the tunnel is; `certificate` is a file, empty without TLS."""

    host: str
    port: int
    certificate: str = ""


class Tunnel:
    """One tunnel to a port of this machine. `url` is empty until it is open."""

    def __init__(self, port: int, server_address: str, folder: Path) -> None:
        """`server_address` is HOST:PORT, or empty for Gradio's; `folder` keeps its certificate."""
        self.url = ""
        self._port = port
        self._server_address = server_address
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._said: list[str] = []

    async def open(self, job: Job) -> None:
        """Find the program and the server, and wait for the link. Raises TunnelError."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._open(job)
        except TimeoutError as error:
            raise TunnelError(
                f"The share link did not come within {DEADLINE_S:.0f} seconds "
                f"({job.stage or 'beginning'})."
            ) from error

    async def _open(self, job: Job) -> None:
        job.report("fetching frp's client", 0.1)
        program = await _client_program()
        job.report("asking for a tunnel server", 0.4)
        server = await self._server()
        job.report(f"waiting for {server.host}", 0.7)
        self.url = await self._start(program, server)

    async def ended(self) -> str:
        """Wait for the end of an open tunnel; the last line that its program said."""
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._keep(line)
        await self._process.wait()
        return self._said[-1] if self._said else ""

    def close(self) -> None:
        """End the program at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _server(self) -> _Server:
        if self._server_address:
            host, _, port = self._server_address.rpartition(":")
            return _Server(host, int(port))
        from gradio.networking import GRADIO_API_SERVER

        try:
            told = (await _get(GRADIO_API_SERVER)).json()[0]
            there = _Server(str(told["host"]), int(told["port"]))
            certificate = str(told["root_ca"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise TunnelError("Gradio's tunnel service answered in an unknown form.") from error
        file = self._folder / "share-certificate.pem"
        try:
            await asyncio.to_thread(write_atomically, file, certificate)
        except OSError as error:
            raise TunnelError(f"{file} cannot be written: {error.strerror}.") from error
        return replace(there, certificate=str(file))

    async def _start(self, program: Path, server: _Server) -> str:
        command = [
            *(str(program), "http", "-n", secrets.token_urlsafe(32)),
            *("-l", str(self._port), "-i", "127.0.0.1", "--uc", "--sd", "random", "--ue"),
            *("--server_addr", f"{server.host}:{server.port}", "--disable_log_color"),
        ]
        if server.certificate:
            command += ["--tls_enable", "--tls_trusted_ca_file", server.certificate]
        if sys.platform == "linux":
            import os

            command = [sys.executable, "-I", "-c", _WITH_PARENT, str(os.getpid()), *command]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        except OSError as error:
            raise TunnelError(f"{program} cannot be run: {error.strerror}.") from error
        try:
            # Gradio's server has a certificate; of another one, the client says it.
            return await self._link("https://" if server.certificate else "")
        except BaseException:
            self.close()
            raise

    async def _link(self, scheme: str) -> str:
        """The address, as soon as the program tells it."""
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = self._keep(line)
            if found := _OPENED.search(text):
                return f"{scheme or found[1] or 'http://'}{found[2]}"
            if "login to server failed" in text:
                raise TunnelError(f"The tunnel server does not answer: {_shortened(text)}.")
        status = await self._process.wait()
        last = f": {_shortened(self._said[-1])}" if self._said else ""
        raise TunnelError(f"frp's client ended by itself (status {status}){last}.")

    def _keep(self, line: bytes) -> str:
        text = line.decode("utf-8", "replace").strip()
        if text:
            self._said = [*self._said[1 - _MAX_LINES :], text]
        return text


def other_ways(port: int) -> str:
    """What else leads here from another machine, in one sentence."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a process without a name
        user = "USER"
    return (
        f"The page goes on; from another machine, use "
        f"`ssh -L {port}:127.0.0.1:{port} {user}@{socket.gethostname()}`, "
        "or another tunnel server with --share-server-address HOST:PORT."
    )


async def _client_program() -> Path:
    """frp's client, fetched once to where Gradio looks for it too. Raises TunnelError."""
    from gradio import tunneling

    path = Path(tunneling.BINARY_PATH)
    wanted = tunneling.CHECKSUMS.get(tunneling.BINARY_URL)
    if wanted is None:
        raise TunnelError("There is no frp client of Gradio's for this kind of machine.")
    try:
        if await asyncio.to_thread(path.is_file):
            if hashlib.sha256(await asyncio.to_thread(path.read_bytes)).hexdigest() != wanted:
                raise TunnelError(f"{path} is not frp's client as Gradio publishes it; delete it.")
            return path
        content = (await _get(tunneling.BINARY_URL)).content
        if hashlib.sha256(content).hexdigest() != wanted:
            raise TunnelError(f"What {tunneling.BINARY_URL} holds is not frp's client.")
        await asyncio.to_thread(_install, path, content)
    except OSError as error:
        raise TunnelError(f"{path} cannot be used: {error.strerror}.") from error
    return path


def _install(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    path.chmod(0o755)


async def _get(url: str) -> httpx2.Response:
    import httpx2

    host = httpx2.URL(url).host
    try:
        async with httpx2.AsyncClient(timeout=20.0, follow_redirects=True) as client:
            answer = await client.get(url)
    except (httpx2.HTTPError, OSError) as error:
        reason = "no answer" if isinstance(error, httpx2.TimeoutException) else "no connection"
        raise TunnelError(f"{host} cannot be reached ({reason}).") from error
    if answer.status_code != 200:
        raise TunnelError(f"{host} answered with status {answer.status_code}.")
    return answer


def _shortened(text: str) -> str:
    return text.rstrip(".")[:200]
