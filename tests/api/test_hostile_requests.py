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

from modules.api.router import build_router
from modules.engine.fake import FakeEngine
from modules.engine.params import knobs
from modules.engine.protocol import LoadModel

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
    for path in ("/models", "/models/x", CHAT, "/completions", "/nothing"):
        headers = {"authorization": header.encode("latin-1")}
        response = httpx.request(
            "GET" if "m" in path[:2] else "POST", api.url + path, headers=headers
        )
        assert code(response) == (401, "invalid_api_key")


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
NAMES = st.sampled_from(
    [*knobs(), "model", "n", "stream", "stream_options", "logprobs", "top_logprobs", "max_tokens"]
    + ["echo", "best_of", "tools", "presence_penalty", "response_format", "logit_bias", "user"]
) | st.text(max_size=10)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "developer", "tool"])},
    optional={"content": st.text(max_size=50) | ANYTHING, "name": ANYTHING, "tool_calls": ANYTHING},
)
BODY = st.builds(
    lambda extras, subject: extras | subject,
    st.dictionaries(NAMES, LIKELY | ANYTHING, max_size=3),
    st.fixed_dictionaries(
        {"messages": st.lists(MESSAGE, max_size=4) | ANYTHING}
        | {"prompt": st.text(max_size=50) | st.lists(st.text(max_size=9), max_size=3) | ANYTHING}
    )
    | st.fixed_dictionaries({"messages": st.lists(MESSAGE, min_size=1, max_size=4)})
    | st.fixed_dictionaries({"prompt": st.text(min_size=1, max_size=50)}),
)


@pytest.fixture(scope="module")
def in_process() -> Any:
    engine = FakeEngine()

    async def load() -> None:
        await engine.load(LoadModel("models/fake-model"))

    app = FastAPI()
    app.include_router(build_router(engine, None))
    with TestClient(app) as client:
        client.portal.call(load)
        yield client


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(path=st.sampled_from([CHAT, "/completions"]), body=BODY | ANYTHING)
def test_no_body_is_a_server_error(in_process: Any, path: str, body: object) -> None:
    response = in_process.post(f"/v1{path}", content=json.dumps(body).encode(), headers=JSON)
    assert response.status_code in (200, 400), response.text
