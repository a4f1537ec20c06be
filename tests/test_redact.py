"""What leaves the machine has no secret in it, and no name."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.redact import HIDDEN, Redactor, passwords_in


def redacted(text: str, *secrets: str) -> str:
    return Redactor(lambda: secrets, Path("/home/ann"))(text)


@pytest.mark.parametrize(
    "text",
    [
        "Share:  https://abc.gradio.live/?token=SECRET-1234_x",
        "GET /v1/models Authorization: Bearer SECRET-1234_x",
        "X-Api-Key: SECRET-1234_x",
        '{"api_key": "SECRET-1234_x"}',
        "server.py --api-key SECRET-1234_x --listen",
        "server.py --gradio-auth=me:SECRET-1234_x",
        "API key:  SECRET-1234_x",
        "HF_TOKEN=SECRET-1234_x",
        "password=SECRET-1234_x",
        "Set-Cookie: lantern_session=SECRET-1234_x; Path=/",
        "https://me:SECRET-1234_x@hub.example/api",
        "hf_SECRET1234SECRET1234x",
        "sk-SECRET-1234_xSECRET",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    found = redacted(text)
    assert "SECRET" not in found
    assert HIDDEN in found


@pytest.mark.parametrize(
    "text",
    [
        "max_new_tokens=200, 1,024 of 4,096 tokens, 212 tok/s",
        "The keyboard has keys; the tokenizer has a token.",
        "http://127.0.0.1:7860/",
        "Loaded SmolLM2-135M-Instruct: float32, on the processor.",
        "skip-this-line and hf_hub",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_what_is_known_to_be_secret_is_hidden_wherever_it_stands() -> None:
    assert redacted("it is abcdefgh!", "abcdefgh") == f"it is {HIDDEN}!"
    assert redacted("xabcdefghx", "abcdefgh", "") == f"x{HIDDEN}x"


def test_a_short_secret_is_hidden_as_a_word_and_not_as_a_part_of_others() -> None:
    assert redacted("cat: a catalogue", "cat") == f"{HIDDEN}: a catalogue"


def test_of_two_secrets_the_longer_is_hidden_whole() -> None:
    assert redacted("secret-and-more", "secret", "secret-and-more") == HIDDEN


def test_tokens_that_are_renewed_are_hidden_too() -> None:
    secrets = ["before-it"]
    redact = Redactor(lambda: secrets)
    secrets.append("after-it")
    assert redact("before-it after-it") == f"{HIDDEN} {HIDDEN}"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/ann/models/x", "~/models/x"),
        ("/home/bob/models/x", "~/models/x"),
        ("/Users/ann", "~"),
        (r"C:\Users\ann\models", r"~\models"),
        ("/home/ann", "~"),
        ("/srv/models", "/srv/models"),
    ],
)
def test_the_name_of_the_user_is_in_no_path(path: str, shown: str) -> None:
    assert redacted(path) == shown


def test_the_passwords_of_logins_are_found() -> None:
    assert passwords_in("me:one, ann:two:three") == ["one", "two:three"]
