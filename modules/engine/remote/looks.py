"""What a server tells without writing a reply: the next token's chances, and vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modules.engine.protocol import Embedded, NextToken, NextTokens, NextTokensFound
from modules.engine.remote.connection import Connection
from modules.engine.remote.failures import strange
from modules.engine.remote.kinds import LANTERN, ServerKind
from modules.engine.remote.replies import logprobs_of
from modules.engine.remote.requests import call_of, conversation_in
from modules.errors import EngineError

__all__ = ["embedded", "next_tokens"]

_MOST_ALTERNATIVES = 20
"""Of a token, in OpenAI's API; vLLM has the same limit unless it is started with another."""


async def embedded(connection: Connection, model: str, text: str) -> Embedded:
    """The vector of a text. Raises EngineError where the server makes none."""
    body = {"model": model, "input": text}
    found = await connection.post(f"{connection.address.base}/embeddings", body)
    try:
        vector = tuple(float(one) for one in found["data"][0]["embedding"])
        return Embedded("", vector, int(found["usage"]["prompt_tokens"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise strange(connection.address) from error


async def next_tokens(
    connection: Connection, kind: ServerKind, model: str, command: NextTokens
) -> NextTokensFound:
    """The likeliest first tokens of a reply.

    Another Lantern tells all of it for a plain prompt. The others tell the model's own chances of
    twenty tokens, and not what the parameters make of them. Raises EngineError.
    """
    request = command.request
    if kind is LANTERN and conversation_in(request) is None:
        call = call_of(kind, model, request)
        body = {
            name: value
            for name, value in call.body.items()
            if name not in ("model", "stream", "stream_options", "max_tokens", "logprobs")
        }
        url = f"{connection.address.base}/internal/logits"
        found = await connection.post(url, body | {"top_logits": command.count})
        return _all_told(connection, command.id, found)
    count = min(command.count, _MOST_ALTERNATIVES)
    call = call_of(kind, model, replace(request, logprobs=count))
    body = {name: value for name, value in call.body.items() if name != "stream_options"}
    body |= {"stream": False, "max_tokens": 1}
    found = await connection.post(connection.address.base + call.path, body)
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    first = logprobs_of(choice.get("logprobs") if isinstance(choice, Mapping) else None)[:1]
    if not first or not first[0].top:
        raise EngineError(
            f"{kind.name} at {connection.address.host} does not tell the chances of tokens.",
            "Load the model on this machine to see them.",
        )
    likeliest = sorted(first[0].top, key=lambda one: -one[1])[:count]
    tokens = tuple(NextToken(-1, text, math.exp(min(0.0, p)), None) for text, p in likeliest)
    usage = found.get("usage")
    prompt_tokens = usage.get("prompt_tokens", 0) if isinstance(usage, Mapping) else 0
    return NextTokensFound(command.id, tokens, 0, 0, prompt_tokens)


def _all_told(connection: Connection, key: str, found: Mapping[str, Any]) -> NextTokensFound:
    try:
        tokens = tuple(
            NextToken(one["id"], one["text"], one["before"], one["after"])
            for one in found["tokens"]
        )
        return NextTokensFound(
            key, tokens, found["kept"], found["vocabulary"], found["prompt_tokens"]
        )
    except (KeyError, TypeError) as error:
        raise strange(connection.address) from error
