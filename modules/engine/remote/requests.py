"""What is sent for a `GenerateRequest`, in the words of each kind of server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.engine.conversation import Conversation, read_conversation
from modules.engine.params import SamplingParams, knobs
from modules.engine.protocol import GenerateRequest
from modules.engine.remote.kinds import LANTERN, SGLANG, VLLM, ServerKind
from modules.errors import EngineError, InvalidInputError

__all__ = ["Call", "call_of", "conversation_in"]

Json = dict[str, Any]

_OF_THE_CALL = frozenset({"max_new_tokens", "stop", "seed"})


@dataclass(frozen=True, slots=True)
class Call:
    """A request to a route below /v1; `chat` says in which form the answer comes."""

    path: str
    body: Mapping[str, Any]
    chat: bool


def call_of(kind: ServerKind, model: str, request: GenerateRequest) -> Call:
    """The call that streams the reply to `request`, whose seed is drawn.

    Raises EngineError for what the server cannot do, and InvalidInputError for a schema that
    is none.
    """
    params = request.params
    usage: Json = {"include_usage": True}
    if kind in (VLLM, SGLANG):
        usage["continuous_usage_stats"] = True
    body: Json = {
        "model": model,
        "stream": True,
        "stream_options": usage,
        "max_tokens": params.max_new_tokens,
        "seed": params.seed,
    }
    if request.stops:
        body["stop"] = list(request.stops[: kind.most_stops])
    body |= _everything(params) if kind is LANTERN else _sampling(kind, params)
    talk = conversation_in(request)
    if talk is None:
        if request.logprobs is not None:
            body["logprobs"] = request.logprobs
        return Call("/completions", body | {"prompt": request.prompt}, chat=False)
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    return Call("/chat/completions", body | _messages(kind, talk), chat=True)


def conversation_in(request: GenerateRequest) -> Conversation | None:
    """The chat that the request is about, where the server makes the prompt."""
    return None if request.special_tokens else read_conversation(request.prompt)


def _messages(kind: ServerKind, talk: Conversation) -> Json:
    if not talk.continued:
        return {"messages": talk.messages}
    if talk.role not in kind.continues:
        whose = "a reply" if talk.role == "assistant" else "a message of yours"
        raise EngineError(
            f"{kind.name} cannot go on with {whose} that is begun.",
            "Choose a chat template for the model in the Model tab: then Lantern writes the "
            "whole prompt, and any server goes on with that.",
        )
    if not talk.begun.strip():
        raise EngineError(
            "The server can only go on with a message that has begun.", "Write its first words."
        )
    return {
        "messages": talk.messages,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


def _everything(params: SamplingParams) -> Json:
    """All parameters that change something, by the names that another Lantern knows."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, knob in knobs().items()
        if name not in _OF_THE_CALL and (value := getattr(params, name)) != knob.neutral
    }


def _sampling(kind: ServerKind, params: SamplingParams) -> Json:
    """The parameters that this kind of server knows, by its names.

    Those that it may have other defaults for, from the model's generation_config.json, are
    always told.
    """
    body: Json = {"temperature": 0.0 if params.greedy else params.temperature}
    if not params.greedy:
        body["top_p"] = params.top_p
    for name in ("presence_penalty", "frequency_penalty"):
        if name in kind.knows and (value := getattr(params, name)):
            body[name] = value
    if "top_k" in kind.knows:
        body |= {
            "top_k": params.top_k if params.top_k and not params.greedy else -1,
            "min_p": 0.0 if params.greedy else params.min_p,
            "repetition_penalty": params.repetition_penalty,
        }
        body |= {"min_tokens": params.min_length} if params.min_length else {}
    biases = {token: float(bias) for token, bias in (one.split(":") for one in params.logit_bias)}
    biases |= dict.fromkeys(params.custom_token_bans, -100.0)
    return body | ({"logit_bias": biases} if biases else {}) | _form(kind, params)


def _form(kind: ServerKind, params: SamplingParams) -> Json:
    """The form of the reply."""
    form, text = params.structure, params.structure_text
    if form not in kind.forms:
        known = ", ".join(one for one in knobs()["structure"].choices if one in kind.forms)
        raise EngineError(
            f"{kind.name} cannot hold a reply to the form {form}.", f"It knows: {known}."
        )
    match form:
        case "json":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {"name": "reply", "schema": _schema(text)}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "regex" if kind is SGLANG:
            return {"regex": text}
        case "regex":
            return {"structured_outputs": {"regex": text}}
        case "gbnf":
            return {"structured_outputs": {"grammar": text}}
    return {}


def _schema(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            "The JSON schema is not valid JSON.", "Write one, or choose another form.",
            field="structure_text",
        ) from error  # fmt: skip
