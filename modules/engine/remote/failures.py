"""What went wrong with a server, in one sentence and with a way out."""

from __future__ import annotations

import json
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx2

from modules.engine.remote.address import ServerAddress
from modules.errors import EngineError, LanternError, PromptTooLongError, WorkerDiedError

__all__ = ["broken_off", "message_of", "refusal", "strange", "unreachable"]

_SHOWN = 300
_TOO_LONG = re.compile(
    r"context[ _]length|maximum context|max_model_len|longer than the model|input is too long", re.I
)
_NO_MODEL = re.compile(r"model.*(not exist|not found|not loaded|not served)|pinned to", re.I)


def unreachable(address: ServerAddress, error: Exception) -> LanternError:
    """What an error of the connection, before an answer has begun, means.

    A WorkerDiedError says that the server may be gone.
    """
    if _untrusted(error):
        return EngineError(
            f"The certificate of {address.host} is not trusted.",
            "Give the server one that this machine trusts, or name its authority in SSL_CERT_FILE.",
        )
    if isinstance(error, httpx2.ReadTimeout):
        return WorkerDiedError(
            f"The server at {address.host} took the request and said nothing.",
            "Try again; it may have too much to do.",
        )
    if isinstance(error, httpx2.ProxyError):
        return WorkerDiedError(
            f"The proxy on the way to {address.host} refuses.",
            "Check HTTPS_PROXY, or name the host in NO_PROXY.",
        )
    return WorkerDiedError(
        f"The server at {address.host} does not answer.", "Start it, or check --api-base."
    )


def broken_off(address: ServerAddress) -> WorkerDiedError:
    """A reply that ended before its end."""
    return WorkerDiedError(
        f"The server at {address.host} broke off in mid-reply.",
        "Continue the reply, once the server is back.",
    )


def _untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def refusal(address: ServerAddress, status: int, text: str, model: str, url: str) -> LanternError:
    """The error that an answer with another status than 200 is.

    `text` is its body, and `model` what the request was for.
    """
    host, said = address.host, address.hide(message_of(text))
    quoted = f": {said}" if said else "."
    match status:
        case 401 | 403:  # without what it says, which often repeats the key
            return EngineError(
                f"The server at {host} wants another key.",
                "Give its key in LANTERN_API_BASE_KEY, and start Lantern again.",
            )
        case 404 | 400 if model and (_NO_MODEL.search(said) or "model_not_found" in text):
            return EngineError(
                f"The server at {host} does not serve {model} any more.",
                "Choose another model in the Model tab.",
            )
        case 404 | 405:
            return EngineError(
                f"The server at {host} has no {urlsplit(url).path}.",
                "It serves less than all of OpenAI's API, or --api-base is not the address of one.",
            )
        case 429:
            return EngineError(
                f"The server at {host} has too many requests{quoted}", "Wait a little, and retry."
            )
        case 400 | 413 | 422 if _TOO_LONG.search(said) or "context_length_exceeded" in text:
            return PromptTooLongError(
                f"The server at {host} has no room for this prompt and its reply{quoted}",
                "Shorten it, or lower the limit of new tokens.",
            )
        case 503 if "model_not_loaded" in text:
            return EngineError(
                f"No model is loaded at {host}.", "Load one there, and here again after that."
            )
    if 300 <= status < 400:
        return EngineError(
            f"The server at {host} sends one elsewhere, and Lantern does not follow.",
            "Give the address that it sends to as --api-base, if you trust it.",
        )
    if status >= 500:
        return EngineError(
            f"The server at {host} failed with {status}{quoted}", "Look into its own log."
        )
    return EngineError(
        f"The server at {host} refuses the request{quoted}",
        "Change what it names; a chat template that is chosen in the Model tab avoids its own.",
    )


def strange(address: ServerAddress) -> EngineError:
    """An answer that is none of this API."""
    return EngineError(
        f"What the server at {address.host} answers is not OpenAI's API.",
        "Check --api-base; it mostly ends in /v1.",
    )


def message_of(text: str) -> str:
    """The sentence in an error's body, in one line; "" where there is none."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return ""
    if not isinstance(found, dict):
        return ""
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    if isinstance(found, list) and found and isinstance(found[0], dict):  # FastAPI's complaints
        found = found[0].get("msg", "")
    line = " ".join(found.split()) if isinstance(found, str) else ""
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
