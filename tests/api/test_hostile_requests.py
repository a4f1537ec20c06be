"""Requests that no decent client sends."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.access import Access, AccessMiddleware
from modules.api.keys import Keys
from modules.api.router import build_router
from modules.engine.fake import FakeEngine
from modules.engine.params import knobs
from modules.engine.protocol import LoadModel
from modules.settings import Settings
from tests.api.helpers import make_api

JSON = {"content-type": "application/json"}
CHAT = "/chat/completions"


def code(response: httpx.Response) -> tuple[int, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return response.status_code, error["code"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a": 1,}', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000]
)
def test_malformed_json_is_refused(api: Any, body: bytes) -> None:
    assert code(api.post(CHAT, content=body, headers=JSON)) == (400, "invalid_json")


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"text"'])
def test_json_that_is_no_object_is_refused(api: Any, body: bytes) -> None:
    assert code(api.post(CHAT, content=body, headers=JSON)) == (400, "invalid_value")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_refused(api: Any, kind: str) -> None:
    response = api.post(CHAT, content=b"{}", headers={"content-type": kind})
    assert code(response) == (400, "invalid_content_type")


def test_a_missing_field_is_named(api: Any) -> None:
    response = api.post(CHAT, json={})
    assert code(response) == (400, "missing_required_parameter")
    assert response.json()["error"]["param"] == "messages"


def test_an_overlarge_body_is_refused(api: Any) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 9_000_000}]}).encode()
    assert code(api.post(CHAT, content=body, headers=JSON)) == (413, "body_too_large")


def test_an_overlarge_body_of_unannounced_length_is_refused(api: Any) -> None:
    chunks = (b" " * 1_000_000 for _ in range(9))
    assert code(api.post(CHAT, content=chunks, headers=JSON)) == (413, "body_too_large")


def test_a_prompt_of_200_000_characters_is_refused_with_its_size(api: Any) -> None:
    response = api.post("/completions", json={"prompt": "a " * 100_000})
    assert code(response) == (400, "context_length_exceeded")
    assert "100,00" in response.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("POST", "/models"), ("PUT", "/x")])
def test_an_unknown_url_is_answered_in_the_same_form(api: Any, method: str, path: str) -> None:
    assert code(httpx.request(method, api.url + path)) == (404, "unknown_url")


@pytest.mark.parametrize("header", ["", "Bearer", "Basic secret", "secret", "Bearer sécret"])
def test_every_route_asks_for_the_key(serve: Any, header: str) -> None:
    api = serve(api_key="secret")
    headers = {"authorization": header.encode("latin-1")}
    for path in ("/models", "/models/x", "/nothing"):
        assert code(httpx.get(api.url + path, headers=headers)) == (401, "invalid_api_key")
    for path in (CHAT, "/completions"):
        assert code(api.post(path, json={}, headers=headers)) == (401, "invalid_api_key")


def test_errors_of_other_routes_keep_their_form(api: Any) -> None:
    response = httpx.get(api.url.removesuffix("/v1") + "/page")
    assert (response.status_code, response.text) == (500, "Internal Server Error")


# -- fuzzing -------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=8,
)
LIKELY = st.sampled_from(
    [0, 1, 2, -1, 0.5, 10**400, 2**63, float("nan"), float("inf"), "", "x", [], {}, True, None]
)
OPTIONS = [
    *("model", "n", "stream", "stream_options", "logprobs", "top_logprobs", "max_tokens", "user"),
    *("echo", "best_of", "tools", "presence_penalty", "response_format", "logit_bias"),
    *("grammar", "grammar_string", "tool_choice", "parallel_tool_calls"),
]
NAMES = st.sampled_from([*knobs(), *OPTIONS]) | st.text(max_size=10)
FUNCTION = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "g", "a b", ""]) | ANYTHING},
    optional={"description": ANYTHING, "parameters": ANYTHING, "arguments": ANYTHING},
)
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION})
TOOLED = st.fixed_dictionaries(
    {"tools": st.lists(TOOL | ANYTHING, max_size=3) | ANYTHING},
    optional={
        "tool_choice": st.sampled_from(["auto", "none", "required"]) | TOOL | ANYTHING,
        "parallel_tool_calls": st.booleans() | ANYTHING,
    },
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "developer", "tool"])},
    optional={
        "content": st.text(max_size=50) | ANYTHING,
        "name": ANYTHING,
        "tool_calls": st.lists(TOOL, max_size=2) | ANYTHING,
        "tool_call_id": ANYTHING,
    },
)
TALK = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "user", "assistant"]),
    st.text(max_size=50),
)
SANE = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 5),
        "top_p": st.floats(0, 1),
        "seed": st.integers(-1, 2**31 - 1),
        "stop": st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=4),
        "max_tokens": st.integers(1, 10**6),
        "n": st.integers(1, 3),
        "stream": st.booleans(),
        "stream_options": st.just({"include_usage": True}),
    },
)
WILD = st.dictionaries(NAMES, LIKELY | ANYTHING, max_size=2)
SUBJECT = st.fixed_dictionaries(
    {
        "messages": st.lists(TALK, min_size=1, max_size=4),
        "prompt": st.text(max_size=50) | st.lists(st.text(max_size=9), min_size=1, max_size=3),
    }
)
DAMAGED = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, max_size=4) | ANYTHING, "prompt": ANYTHING}
)
CHAT_BODY = st.builds(
    lambda path, *parts: (path, {k: v for part in parts for k, v in part.items()}),
    st.sampled_from([CHAT, "/completions"]),
    SUBJECT | DAMAGED,
    SANE,
    st.just({}) | WILD | TOOLED,
)
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "image", "thinking"])},
    optional={
        "text": st.text(max_size=9) | ANYTHING,
        "id": st.text(max_size=9),
        "name": st.just("f") | ANYTHING,
        "input": st.dictionaries(st.text(max_size=5), ANYTHING, max_size=2) | ANYTHING,
        "tool_use_id": st.text(max_size=9),
        "content": ANYTHING,
    },
)
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": st.text(max_size=20) | st.lists(BLOCK, max_size=3) | ANYTHING,
    }
)
MESSAGES_BODY = st.fixed_dictionaries(
    {"messages": st.lists(TURN, max_size=3) | ANYTHING},
    optional={
        "max_tokens": st.integers(-1, 50) | ANYTHING,
        "system": st.text(max_size=9) | st.lists(BLOCK, max_size=2) | ANYTHING,
        "stop_sequences": st.lists(st.text(max_size=5), max_size=3) | ANYTHING,
        "stream": st.booleans(),
        "tools": st.lists(
            st.fixed_dictionaries({"name": st.just("f"), "input_schema": st.just({}) | ANYTHING}),
            max_size=2,
        )
        | ANYTHING,
        "tool_choice": st.fixed_dictionaries(
            {"type": st.sampled_from(["auto", "any", "tool", "none"])},
            optional={"name": st.just("f") | ANYTHING},
        )
        | ANYTHING,
        "thinking": ANYTHING,
    },
)
FIELDS = st.sampled_from(
    ["text", "tokens", "prompt", "use_samplers", "top_logits", "model_name", "args", "lora_names",
     "input", "encoding_format", "dimensions", "add_special_tokens"]
)  # fmt: skip
OTHER_BODY = st.dictionaries(
    FIELDS | NAMES, st.text(max_size=20) | st.lists(st.integers(), max_size=3) | LIKELY | ANYTHING,
    max_size=3,
)  # fmt: skip
OTHER = ["/internal/encode", "/internal/decode", "/internal/token-count", "/internal/logits",
         "/internal/model/load", "/internal/lora/load", "/internal/lora/unload", "/embeddings",
         "/messages/count_tokens"]  # fmt: skip
"""Unloading is left out: without a model, nothing else would be reached."""


def trimmed(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Without the subject of the other route, which alone would be refused."""
    return {k: v for k, v in body.items() if k != ("prompt" if path == CHAT else "messages")}


@pytest.fixture(scope="module")
def in_process() -> Any:
    engine = FakeEngine()

    async def load() -> None:
        await engine.load(LoadModel("models/fake-model"))

    app = FastAPI()
    app.include_router(build_router(make_api(engine, Settings(), Keys())))
    app.add_middleware(AccessMiddleware, access=Access())
    here = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 5000)}
    with TestClient(app, **here) as client:
        client.portal.call(load)
        yield client


def send(client: Any, path: str, body: object) -> int:
    response = client.post(f"/v1{path}", content=json.dumps(body).encode(), headers=JSON)
    assert response.status_code in (200, 400, 404), response.text
    return int(response.status_code)


FUZZ = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@FUZZ
@given(case=CHAT_BODY)
def test_no_request_is_a_server_error(in_process: Any, case: tuple[str, dict[str, Any]]) -> None:
    path, body = case
    send(in_process, path, trimmed(path, body))


@FUZZ
@given(path=st.sampled_from(["/messages", "/messages/count_tokens"]), body=MESSAGES_BODY)
def test_no_message_is_a_server_error(in_process: Any, path: str, body: dict[str, Any]) -> None:
    send(in_process, path, body)


@FUZZ
@given(path=st.sampled_from(OTHER), body=OTHER_BODY | ANYTHING)
def test_no_other_route_has_a_server_error(in_process: Any, path: str, body: object) -> None:
    send(in_process, path, body)


@FUZZ
@given(body=ANYTHING)
def test_no_json_at_all_is_a_server_error(in_process: Any, body: object) -> None:
    assert send(in_process, CHAT, body) == 400


@FUZZ
@given(subject=SUBJECT, options=SANE)
def test_every_sane_request_is_answered(
    in_process: Any, subject: dict[str, Any], options: dict[str, Any]
) -> None:
    assert send(in_process, CHAT, trimmed(CHAT, subject | options)) == 200
