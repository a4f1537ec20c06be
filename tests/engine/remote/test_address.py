"""Where a server is, and that nobody is shown by what it is opened."""

from __future__ import annotations

import pytest

from modules.engine.remote.address import ServerAddress
from modules.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "base", "root"),
    [
        ("http://gpu1:8000", "http://gpu1:8000/v1", "http://gpu1:8000"),
        ("http://gpu1:8000/v1/", "http://gpu1:8000/v1", "http://gpu1:8000"),
        ("https://api.example.com/v1", "https://api.example.com/v1", "https://api.example.com"),
        ("http://[::1]:9/llm/v1", "http://[::1]:9/llm/v1", "http://[::1]:9/llm"),
        ("http://gpu1/proxy/8000", "http://gpu1/proxy/8000", "http://gpu1/proxy/8000"),
    ],
)
def test_an_address_is_that_of_the_api_and_of_its_server(url: str, base: str, root: str) -> None:
    address = ServerAddress.of(url)
    assert (address.base, address.root) == (base, root)


def test_a_login_is_kept_apart_and_shown_nowhere() -> None:
    address = ServerAddress.of("https://me:s3cret%21@gpu1/v1")
    assert address.login == ("me", "s3cret!")
    assert "s3cret" not in repr(address) + address.base + address.root + address.host


def test_a_key_is_taken_out_of_what_a_server_says() -> None:
    address = ServerAddress.of("http://gpu1/v1", "sk-abc")
    assert address.hide("Incorrect API key provided: sk-abc.") == (
        "Incorrect API key provided: ***."
    )
    assert "sk-abc" not in repr(address)


def test_a_login_and_a_key_contradict_each_other() -> None:
    with pytest.raises(SettingsError, match="Give one of them"):
        ServerAddress.of("http://me:pw@gpu1/v1", "sk-abc")


@pytest.mark.parametrize("url", ["ftp://gpu1/v1", "file:///etc/passwd", "http:///v1", "gpu1:8000"])
def test_only_http_and_https_lead_to_a_server(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ServerAddress.of(url)
    assert caught.value.remedy


def test_only_this_machine_is_asked_without_a_proxy() -> None:
    assert ServerAddress.of("http://localhost:1").is_loopback
    assert ServerAddress.of("http://127.0.0.1:1").is_loopback
    assert not ServerAddress.of("http://10.0.0.1:1").is_loopback
