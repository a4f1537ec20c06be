"""`/v1/internal`: tokens, chances, and what is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from modules.engine.fake import FakeEngine
from modules.errors import AdapterError, LanternError
from modules.settings import Settings


def post(api: Any, path: str, **body: Any) -> Any:
    answer = api.post(f"/internal/{path}", json=body)
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json())


def refusal(answer: Any) -> tuple[int, str | None, str | None]:
    status, body = answer
    return status, body["error"]["code"], body["error"]["param"]


def get(api: Any, path: str) -> Any:
    return httpx.get(f"{api.url}/internal/{path}").json()


@pytest.fixture
def model(settings: Settings) -> str:
    """A folder that a fake engine can load."""
    (settings.model_dir / "other").mkdir()
    return "other"


@pytest.fixture
def adapter(settings: Settings) -> str:
    """A folder that a fake engine can apply."""
    settings.lora_dir.mkdir()
    (settings.lora_dir / "pirate").mkdir()
    return "pirate"


# -- tokens ------------------------------------------------------------------------------


def test_a_text_goes_to_tokens_and_back(api: Any) -> None:
    encoded = post(api, "encode", text="The capital of France", add_special_tokens=False)
    assert encoded["length"] == len(encoded["tokens"]) == 4
    assert post(api, "decode", tokens=encoded["tokens"]) == {"text": "The capital of France"}


def test_tokens_are_counted_as_a_prompt_has_them(api: Any) -> None:
    assert post(api, "token-count", text="The capital") == {"length": 3}
    assert post(api, "token-count", text="The capital", add_special_tokens=False) == {"length": 2}


def test_a_token_that_is_not_there_is_named(api: Any) -> None:
    assert refusal(post(api, "decode", tokens=[999_999])) == (400, "invalid_value", "tokens")
    assert refusal(post(api, "decode", tokens=[-1])) == (400, "invalid_value", "tokens[0]")


def test_the_next_token_is_told_before_and_after_the_samplers(api: Any) -> None:
    before = post(api, "logits", prompt="Where?", top_logits=3)
    after = post(api, "logits", prompt="Where?", use_samplers=True, top_logits=3, top_k=1)
    assert before["logits"] == {"The": 0.5, " capital": 0.25, " of": 0.125}
    assert after["logits"] == {"The": 1.0}
    assert after["kept"] == 1
    assert [t["before"] for t in after["tokens"]] == [0.5, 0.25, 0.125]


def test_an_unknown_sampler_is_refused_here_too(api: Any) -> None:
    refused = refusal(post(api, "logits", prompt="x", topk=1))
    assert refused == (400, "unknown_parameter", "topk")


@pytest.mark.parametrize("path", ["encode", "token-count", "logits", "decode"])
def test_without_a_model_tokens_are_unavailable(serve: Any, path: str) -> None:
    body = {"encode": "text", "token-count": "text", "logits": "prompt", "decode": "tokens"}
    answer = post(serve(command=None), path, **{body[path]: [1] if path == "decode" else "x"})
    assert refusal(answer)[:2] == (503, "model_not_loaded")


# -- what is loaded ------------------------------------------------------------------------


def test_health_tells_whether_there_is_a_model(serve: Any) -> None:
    assert get(serve(), "health") == {"status": "ok", "state": "ready"}
    assert get(serve(command=None), "health") == {"status": "ok", "state": "empty"}


def test_info_names_the_model_and_its_loras(api: Any) -> None:
    info = get(api, "model/info")
    assert (info["model_name"], info["lora_names"]) == ("fake-model", [])
    assert info["context_length"] == 2048


def test_without_a_model_its_name_is_null(serve: Any) -> None:
    assert get(serve(command=None), "model/info")["model_name"] is None


def test_a_model_is_loaded_by_name_and_unloaded(api: Any, model: str) -> None:
    assert post(api, "model/load", model_name=model)["model_name"] == model
    assert get(api, "model/info")["model_name"] == model
    assert post(api, "model/unload")["state"] == "empty"
    assert get(api, "model/info")["model_name"] is None


def test_load_options_go_by_lanterns_names_and_by_the_old_flags(api: Any, model: str) -> None:
    args = {"load_in_4bit": True, "bf16": False, "ctx_size": 512, "cache_type": "8-bit"}
    post(api, "model/load", model_name=model, args=args)
    options = api.engine.state.command.options
    assert (options.quantize, options.context_length, options.cache_type) == ("4bit", 512, "8-bit")


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"model_name": "none"}, (404, "model_not_found", None)),
        ({"model_name": "../other"}, (400, "invalid_value", "name")),
        ({"model_name": "other", "args": {"gguf": 1}}, (400, "unknown_parameter", "args")),
        (
            {"model_name": "other", "args": {"context_length": -1}},
            (400, "invalid_value", "context_length"),
        ),
        ({"model_name": "other", "args": {"dtype": [1]}}, (400, "invalid_value", "dtype")),
        ({}, (400, "missing_required_parameter", "model_name")),
    ],
)
def test_a_load_that_cannot_be_leaves_the_present_model(
    api: Any, model: str, body: dict[str, Any], refused: tuple[int, str, str | None]
) -> None:
    assert refusal(post(api, "model/load", **body)) == refused
    assert get(api, "model/info")["model_name"] == "fake-model"


def test_a_load_that_fails_says_why(api: Any, model: str) -> None:
    api.engine.load_error = LanternError("Memory ran out.", "Choose a smaller one.")
    status, body = post(api, "model/load", model_name=model)
    assert (status, body["error"]["code"]) == (409, "load_failed")
    assert "Memory ran out." in body["error"]["message"]


def test_models_that_cannot_be_loaded_are_not_listed(api: Any, model: str) -> None:
    assert get(api, "model/list") == {"model_names": []}  # an empty folder is no checkpoint


# -- LoRAs --------------------------------------------------------------------------------


def test_loras_are_applied_and_removed_by_name(api: Any, adapter: str) -> None:
    assert post(api, "lora/load", lora_names=[adapter])["lora_names"] == [adapter]
    assert post(api, "lora/unload", lora_names=[adapter])["lora_names"] == []


def test_unloading_without_a_body_removes_all(api: Any, adapter: str) -> None:
    post(api, "lora/load", lora_names=[adapter])
    assert api.post("/internal/lora/unload").json()["lora_names"] == []


def test_a_body_in_chunks_is_read_and_not_taken_for_none(api: Any, adapter: str) -> None:
    post(api, "lora/load", lora_names=[adapter])
    chunks = iter([json.dumps({"lora_names": ["other"]}).encode()])
    json_type = {"content-type": "application/json"}
    answer = api.post("/internal/lora/unload", content=chunks, headers=json_type)
    assert answer.status_code == 404
    assert get(api, "model/info")["lora_names"] == [adapter]


@pytest.mark.parametrize("name", ["none", "../pirate", "/etc"])
def test_a_lora_that_is_not_there_is_refused_before_any_is_applied(
    api: Any, adapter: str, name: str
) -> None:
    status, _ = post(api, "lora/load", lora_names=[adapter, name])
    assert status == 400
    assert get(api, "model/info")["lora_names"] == []


def test_a_lora_that_does_not_fit_says_why(serve: Any, adapter: str) -> None:
    api = serve(FakeEngine(adapter_error=AdapterError("It has another width.", "Train anew.")))
    status, body = post(api, "lora/load", lora_names=[adapter])
    assert (status, body["error"]["code"]) == (400, "adapter_unusable")


def test_the_folder_of_loras_may_be_missing(api: Any, settings: Settings) -> None:
    assert not Path(settings.lora_dir).exists()
    assert get(api, "lora/list") == {"lora_names": []}
