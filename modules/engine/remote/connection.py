"""`Connection`: requests to one server, and what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx2

from modules.engine.remote.address import ServerAddress
from modules.engine.remote.failures import broken_off, refusal, strange, unreachable

__all__ = ["Connection", "Patience"]

_MOST_ERROR = 64 * 1024
_MOST_ANSWER = 64 * 1024 * 1024

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait: for a connection, for an answer, and for the next token of a reply."""

    connect: float = 10.0
    answer: float = 60.0
    token: float = 600.0


class Connection:
    """Belongs to the event loop that first uses it. Redirects are never followed."""

    def __init__(self, address: ServerAddress, patience: Patience | None = None) -> None:
        self.address = address
        self.patience = patience or Patience()
        self._client: httpx2.AsyncClient | None = None

    async def get(self, url: str) -> Json:
        """What the server has at `url`. Raises EngineError."""
        return await self._whole("GET", url, None)

    async def post(self, url: str, body: Mapping[str, Any]) -> Json:
        """What it answers to `body`. Raises EngineError."""
        return await self._whole("POST", url, body)

    async def stream(self, url: str, body: Mapping[str, Any]) -> AsyncGenerator[Json, None]:
        """The events of an answer, one after the other; closing it closes the connection.

        Raises EngineError and PromptTooLongError.
        """
        begun = False
        try:
            request = self._request("POST", url, body, self.patience.token)
            response = await self._opened().send(request, stream=True)
            try:
                await self._check(response, body)
                begun = True
                async for line in response.aiter_lines():
                    name, _, data = line.partition(":")
                    data = data.strip()
                    if name != "data" or not data:
                        continue
                    if data == "[DONE]":
                        return
                    yield self._event(data, body)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            failure = broken_off(self.address) if begun else unreachable(self.address, error)
            raise failure from error

    async def close(self) -> None:
        """Close what is open."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            address = self.address
            headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
            self._client = httpx2.AsyncClient(
                headers=headers,
                auth=address.login,
                follow_redirects=False,
                # A reply holds a connection for as long as it takes: no queue of our own.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
                trust_env=not address.is_loopback,
            )
        return self._client

    def _request(
        self, method: str, url: str, body: Mapping[str, Any] | None, wait: float
    ) -> httpx2.Request:
        timeout = httpx2.Timeout(wait, connect=self.patience.connect, pool=None)
        content = None if body is None else json.dumps(body)  # ASCII: lone surrogates pass, too
        headers = {} if body is None else {"Content-Type": "application/json"}
        return self._opened().build_request(
            method, url, content=content, headers=headers, timeout=timeout
        )

    async def _whole(self, method: str, url: str, body: Mapping[str, Any] | None) -> Json:
        try:
            request = self._request(method, url, body, self.patience.answer)
            response = await self._opened().send(request, stream=True)
            try:
                await self._check(response, body or {})
                text = await _read(response, _MOST_ANSWER)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise unreachable(self.address, error) from error
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise strange(self.address)
        return found

    async def _check(self, response: httpx2.Response, body: Mapping[str, Any]) -> None:
        """Raise what an answer with another status than 200 means."""
        if response.status_code == 200:
            return
        text = await _read(response, _MOST_ERROR)
        model, url = str(body.get("model", "")), str(response.request.url)
        raise refusal(self.address, response.status_code, text, model, url)

    def _event(self, data: str, body: Mapping[str, Any]) -> Json:
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise strange(self.address)
        if found.get("error"):
            raise refusal(self.address, _status(found), data, str(body.get("model", "")), "")
        return found


def _status(event: Mapping[str, Any]) -> int:
    """The status that an error within a stream would have had."""
    about = event["error"]
    code = about.get("code") if isinstance(about, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return 400 if isinstance(about, dict) and "invalid_request" in str(about.get("type")) else 500


async def _read(response: httpx2.Response, most: int) -> str:
    data = bytearray()
    stream = response.aiter_bytes()
    async with aclosing(stream):
        async for part in stream:
            data += part
            if len(data) > most:
                break
    return data.decode("utf-8", "replace")
