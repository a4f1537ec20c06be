"""A reverse proxy on loopback, as a Jupyter or an nginx in front of Lantern is one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

__all__ = ["proxying"]

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


@contextlib.contextmanager
def proxying(target: str, prefix: str, *, like: str) -> Iterator[str]:
    """Show `target` below `prefix`; the address of the page there.

    Like "jupyter" it takes the prefix off and keeps Host; like "nginx" it keeps the prefix, puts
    its own name into Host, and says for whom it asks.
    """
    client = httpx.AsyncClient(base_url=target, timeout=None)

    async def forward(request: Request) -> Response:
        path = request.url.path
        headers = [(k, v) for k, v in request.headers.items() if k not in _HOP_BY_HOP]
        if like == "jupyter":
            path = path.removeprefix(prefix)
        else:
            host = request.headers["host"]
            headers = [(k, v) for k, v in headers if k != "host"]
            headers += [("x-forwarded-host", host), ("x-forwarded-for", "203.0.113.5")]
        url = httpx.URL(path, query=request.url.query.encode())
        asked = client.build_request(request.method, url, headers=headers,
                                     content=await request.body())  # fmt: skip
        answer = await client.send(asked, stream=True)
        kept = [(k, v) for k, v in answer.headers.multi_items() if k not in _HOP_BY_HOP]
        response = StreamingResponse(_pieces(answer), answer.status_code)
        response.raw_headers = [(k.encode(), v.encode()) for k, v in kept]
        return response

    methods = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]
    app = Starlette(routes=[Route(prefix + "/{path:path}", forward, methods=methods)])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, lifespan="off")
    )
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
    server.should_exit = True
    thread.join(20)


async def _pieces(answer: httpx.Response) -> AsyncIterator[Any]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
