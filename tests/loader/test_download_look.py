"""Asking the hub: what it has, what its refusals mean, and what it may not talk us into."""

from __future__ import annotations

import socket
import ssl

import httpx2
import pytest

from modules.errors import DownloadError
from modules.loader.download import DownloadRequest, Listing, look
from modules.loader.download.hub import explain, wait_asked
from tests.hub import Hub, commit_of, git_name, sha256_of

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}


def ask(model: str = "owner/name") -> Listing:
    return look(DownloadRequest(model=model))


def refusal(model: str = "owner/name") -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        ask(model)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(autouse=True)
def _repository(hub: Hub) -> None:
    hub.add("owner/name", FILES)


def test_a_listing_has_commit_sizes_and_hashes(hub: Hub) -> None:
    listing = ask()
    assert (listing.repo, listing.branch, listing.folder) == ("owner/name", "main", "owner_name")
    assert listing.revision == commit_of(FILES)
    assert listing.endpoint == hub.url
    config, weights = listing.files
    assert (config.path, config.sha256, config.git_sha1) == ("config.json", "", git_name(b"{}"))
    assert (weights.size, weights.sha256, weights.git_sha1) == (7, sha256_of(b"weights"), "")
    assert listing.left_out == (("pytorch_model.bin", "pickles can run code"),)
    assert listing.total_bytes == 9


def test_nothing_moves_while_looking(hub: Hub) -> None:
    ask()
    assert hub.content_requests() == []


def test_a_branch_has_its_own_files_and_folder(hub: Hub) -> None:
    hub.add("owner/name", {"model.safetensors": b"other"}, branch="refs/pr/1")
    listing = ask("owner/name:refs/pr/1")
    assert listing.folder == "owner_name_refs-pr-1"
    assert listing.revision == commit_of({"model.safetensors": b"other"})


def test_an_unknown_branch_is_answered_with_those_there_are(hub: Hub) -> None:
    hub.add("owner/name", FILES, branch="4bit-32g")
    error = refusal("owner/name:4bit-64g")
    assert error.message == "owner/name has no branch 4bit-64g."
    assert error.remedy == "There are: main, 4bit-32g."


def test_the_token_is_read_when_it_is_needed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.token = "hf_secret"
    error = refusal()
    assert "shows no model owner/name" in error.message
    assert "HF_TOKEN" in error.remedy
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert ask().files


def test_an_unknown_model_may_be_a_private_one() -> None:
    assert "HF_TOKEN" in refusal("owner/nothing").remedy


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"sha": "../../main"}, "a commit that is none"),
        ({"sha": None}, "no commit"),
        ({"siblings": [{"rfilename": "a.json", "size": -1}]}, "a negative size"),
        ({"siblings": [{"rfilename": "a.json", "size": 2**60}]}, "an absurd size"),
        ({"siblings": [{"rfilename": "a.json", "size": "7"}]}, "a size that is no number"),
        ({"siblings": [{"rfilename": "a.json", "size": 1, "blobId": "x"}]}, "a hash that is none"),
        ({"siblings": [{"rfilename": 7, "size": 1}]}, "a path that is no text"),
        ({"siblings": [{"size": 1}]}, "no path"),
        ({"siblings": "abc"}, "no list"),
        ({"siblings": [{"rfilename": "a", "size": 1}] * 20_001}, "too many files"),
        ({"lastModified": "yesterday"}, "a date that is none"),
    ],
)
def test_an_answer_that_is_not_a_hubs_is_refused(
    hub: Hub, info: dict[str, object], why: str
) -> None:
    hub.faults.info = info
    assert "does not answer as a hub does" in refusal().message, why


def test_hostile_paths_are_left_out(hub: Hub) -> None:
    for path in ("../../evil.json", "/etc/evil.json", "a\\..\\evil.json", "..", "con.json"):
        hub.faults.paths = {"config.json": path}
        listing = ask()
        assert [file.path for file in listing.files] == ["model.safetensors"]
        assert path in dict(listing.left_out)


@pytest.mark.parametrize(
    "endpoint", ["ftp://x", "localhost", "http://user:pw@host", "http://host/?x=1", "http://a b"]
)
def test_an_endpoint_that_is_no_address_is_named(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert "HF_ENDPOINT" in refusal().message


def test_a_hub_that_is_not_there_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert "out of reach" in refusal().message


def test_a_server_that_speaks_no_tls_is_not_trusted(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http:", "https:"))
    assert "could not be verified (TLS)" in refusal().message


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (socket.gaierror(-2, "Name or service not known"), "could not be resolved"),
        (ssl.SSLCertVerificationError("self-signed"), "could not be verified"),
        (ConnectionRefusedError(), "out of reach"),
    ],
)
def test_what_is_behind_a_failed_connection_is_told(cause: Exception, sentence: str) -> None:
    error = httpx2.ConnectError("failed")
    error.__cause__ = cause
    assert sentence in explain(error, "https://huggingface.co").message


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (httpx2.ReadTimeout("slow"), "huggingface.co does not answer."),
        (httpx2.ProxyError("403"), "The proxy refuses the way to huggingface.co."),
        (httpx2.ReadError("reset"), "The connection to huggingface.co broke."),
    ],
)
def test_other_errors_of_the_connection_are_told(error: Exception, sentence: str) -> None:
    assert explain(error, "https://huggingface.co").message == sentence


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"ratelimit": '"resolvers";r=0;t=55'}, 55),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0),
        ({"retry-after": "9" * 5000}, 86_400),
        ({}, 0),
    ],
)
def test_a_hub_may_ask_for_a_pause(headers: dict[str, str], seconds: float) -> None:
    assert wait_asked(headers) == seconds
