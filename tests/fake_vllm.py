"""A scripted stand-in for vLLM: its routes and its particular answers, and no model.

Nothing of vLLM runs here. The forms are those of openai/chat_completion/protocol.py and
serve/tokenize/protocol.py in vllm/entrypoints; a token is a word with the space before it. With
the `owner` "sglang" it counts as srt/entrypoints/openai/serving_tokenize.py in sglang does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

__all__ = ["FakeVllm", "fake_vllm"]


@dataclass
class FakeVllm:
    """What it is to say, and what it was asked. `answer`: status, body and headers of a refusal."""

    context: int = 1000
    owner: str = "vllm"
    words: list[str] = field(default_factory=lambda: ["Paris", " is", " it", "."])
    thoughts: list[str] = field(default_factory=list)
    answer: tuple[int, Any, dict[str, str]] | None = None
    tokenizes: bool = True
    breaks_off: bool = False
    silent: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    tokenized: list[dict[str, Any]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def models(self) -> dict[str, Any]:
        """A base, and two LoRAs over it."""
        base = {"id": "base", "object": "model", "owned_by": self.owner, "root": "/models/base",
                "parent": None, "max_model_len": self.context}  # fmt: skip
        loras = [
            {"id": name, "object": "model", "owned_by": self.owner, "root": f"/loras/{name}",
             "parent": "base"}
            for name in ("poet", "clerk")
        ]  # fmt: skip
        return {"object": "list", "data": [base, *loras]}

    def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        """As POST /tokenize; the template adds a token to each message, and one to the reply."""
        if isinstance(body.get("prompt"), list):
            counts = [len(_pieces(text)) for text in body["prompt"]]
            return {"count": counts, "max_model_len": self.context, "tokens": []}
        if "messages" in body:
            texts = [message["content"] for message in body["messages"]]
            pieces = [piece for text in texts for piece in ("<m>", *_pieces(text))] + ["<a>"]
        else:
            pieces = _pieces(body["prompt"])
        found = {"count": len(pieces), "max_model_len": self.context}
        strings = [piece.replace(" ", "Ġ") for piece in pieces]
        return found | {"tokens": list(range(len(pieces))), "token_strs": strings}

    def usage(self, body: dict[str, Any], written: int) -> dict[str, Any]:
        """The numbers of a reply so far."""
        prompt = self.tokenize(body)["count"]
        return {"prompt_tokens": prompt, "completion_tokens": written,
                "prompt_tokens_details": {"cached_tokens": 2}}  # fmt: skip

    def choices(self, chat: bool) -> Iterator[dict[str, Any]]:
        """The chunks of a reply."""
        for word in self.thoughts:
            yield {"delta": {"reasoning_content": word}}
        for word in self.words:
            yield {"delta": {"content": word}} if chat else {"text": word}
        if not self.breaks_off:
            yield ({"delta": {}} if chat else {"text": ""}) | {"finish_reason": "stop"}


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)


def _app(fake: FakeVllm) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def note(request: Request, go_on: Any) -> Response:
        fake.seen.append(f"{request.method} {request.url.path}")
        fake.headers.append(dict(request.headers))
        if fake.answer is not None:
            status, body, headers = fake.answer
            return JSONResponse(body, status, headers)
        answer: Response = await go_on(request)
        return answer

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return fake.models()

    @app.post("/tokenize")
    async def tokenize(body: dict[str, Any]) -> Response:
        fake.tokenized.append(body)
        if not fake.tokenizes:
            return JSONResponse({"detail": "Not Found"}, 404)
        return JSONResponse(fake.tokenize(body))

    @app.post("/detokenize")
    async def detokenize(body: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": " ".join(map(str, body["tokens"]))}

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> Response:
        return _answered(fake, body, chat=True)

    @app.post("/v1/completions")
    async def complete(body: dict[str, Any]) -> Response:
        return _answered(fake, body, chat=False)

    return app


def _answered(fake: FakeVllm, body: dict[str, Any], *, chat: bool) -> Response:
    fake.bodies.append(body)
    asked = fake.tokenize(body)["count"] + body["max_tokens"]
    if asked > fake.context:
        told = f"This model's maximum context length is {fake.context} tokens."
        return JSONResponse({"error": {"message": told, "code": 400}}, 400)
    if not body["stream"]:
        top = [{"token": " Paris", "logprob": -0.25}, {"token": " Rome", "logprob": -2.0}]
        content = [{"token": " Paris", "logprob": -0.25, "top_logprobs": top}]
        return JSONResponse({"choices": [{"logprobs": {"content": content}}],
                             "usage": fake.usage(body, 1)})  # fmt: skip
    return StreamingResponse(_events(fake, body, chat), media_type="text/event-stream")


async def _events(fake: FakeVllm, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
    for place, choice in enumerate(fake.choices(chat)):
        if fake.silent and place == 1:
            await asyncio.sleep(60)
        event = {"choices": [{"index": 0} | choice], "usage": fake.usage(body, place + 1)}
        yield f"data: {json.dumps(event)}\n\n"
    if not fake.breaks_off:
        yield "data: [DONE]\n\n"


@contextlib.contextmanager
def fake_vllm(**about: Any) -> Iterator[FakeVllm]:
    """One on loopback, to the end of the block."""
    fake = FakeVllm(**about)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(_app(fake), log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    fake.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield fake
    server.should_exit = True
    thread.join(20)
