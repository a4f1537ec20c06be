"""The hub: what a repository has, the bytes of a file, and what its refusals mean.

HF_ENDPOINT and HF_TOKEN are read when they are needed, so that a change of either counts at
once. What a hub says is not trusted: revisions and hashes must be hexadecimal, sizes within
bounds, paths plain; and it may redirect to https anywhere (hubs keep large files with others)
but to plain http only on its own host. httpx drops the token when a redirect leaves the host.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modules.errors import DownloadError
from modules.loader.download.choice import choose
from modules.loader.download.listing import DownloadRequest, Listing, RemoteFile, folder_name

if TYPE_CHECKING:
    from httpx2 import Request, Response

__all__ = ["Refusal", "explain", "explain_status", "look", "open_file", "wait_asked"]

_TIMEOUT_S = 10.0
_REDIRECTS = 5
_SIZE_LIMIT = 2**50
_FILES_LIMIT = 20_000
_HEX40 = re.compile(r"[0-9a-f]{40}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_PASSING = {408, 416, 425, 429, 500, 502, 503, 504}
"""Answers that may be another one if asked again."""


class Refusal(Exception):  # noqa: N818 - not an error yet: it may be tried again
    """The hub did not give what was asked for.

    `passing`: it may do so after `wait_s` seconds; `restart`: from the first byte on.
    """

    def __init__(
        self, error: DownloadError, *, passing: bool, wait_s: float = 0.0, restart: bool = False
    ) -> None:
        super().__init__(error)
        self.error = error
        self.passing = passing
        self.wait_s = wait_s
        self.restart = restart


def look(request: DownloadRequest) -> Listing:
    """Ask the hub what there is, and choose what to take of it.

    Raises InvalidInputError for a request that cannot be meant, and DownloadError where the
    hub is out of reach, has no such model, or has nothing that may be loaded.
    """
    repo, branch = request.repo_and_branch()
    excluded = request.excluded()
    endpoint = _endpoint()
    revision, files = _list_files(endpoint, repo, branch)
    choice = choose(files, request, excluded, repo)
    return Listing(
        repo=repo,
        branch=branch,
        revision=revision,
        folder=folder_name(repo, branch),
        is_adapter=choice.is_adapter,
        files=choice.files,
        left_out=choice.left_out,
        endpoint=endpoint,
    )


@contextmanager
def open_file(listing: Listing, file: RemoteFile, start: int, stop: int) -> Iterator[Response]:
    """The hub's answer to a request for the bytes of `file` from `start` to before `stop`.

    Its status is 200 or 206; whether it kept to the range is for the caller to see. Raises
    Refusal for any other status, and httpx2's errors where the connection fails.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(listing.repo, file.path, revision=listing.revision, endpoint=listing.endpoint)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if start > 0 or stop < file.size:
        headers["Range"] = f"bytes={start}-{stop - 1}"
    client = get_session()
    request: Request | None = client.build_request("GET", url, headers=headers, timeout=_TIMEOUT_S)
    for _ in range(_REDIRECTS):
        assert request is not None
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            request = response.next_request
            if request is None:
                _refuse_status(response, listing)
                yield response
                return
            _refuse_redirect(request, listing)
        finally:
            response.close()
    raise Refusal(
        DownloadError(
            f"{_host(listing.endpoint)} redirects {file.path} in a circle.",
            "Try later, or another hub with HF_ENDPOINT.",
        ),
        passing=False,
    )


# -- listing ----------------------------------------------------------------------------


def _endpoint() -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or "https://huggingface.co"
    if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", endpoint):
        raise DownloadError(
            f"HF_ENDPOINT is {endpoint[:80]!r}, which is not the address of a hub.",
            "Give https:// and a host, or unset it.",
        )
    return endpoint


def _list_files(endpoint: str, repo: str, branch: str) -> tuple[str, tuple[RemoteFile, ...]]:
    """The commit that `branch` points to, and all files in it."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint)
    try:
        info = api.model_info(repo, revision=branch, files_metadata=True, timeout=_TIMEOUT_S)
        return _checked(info.sha, info.siblings or [], endpoint)
    except HfHubHTTPError as error:
        response = error.response
        if response.headers.get("x-error-code") == "RevisionNotFound":
            raise _no_branch(api, repo, branch) from error
        raise explain_status(response.status_code, response.headers, repo, endpoint) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled) as error:
        raise explain(error, endpoint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_a_hub(endpoint) from error


def _checked(sha: object, siblings: list[Any], endpoint: str) -> tuple[str, tuple[RemoteFile, ...]]:
    if not isinstance(sha, str) or not _HEX40.fullmatch(sha) or len(siblings) > _FILES_LIMIT:
        raise _not_a_hub(endpoint)
    files = []
    for sibling in siblings:
        size = sibling.lfs.size if sibling.lfs else sibling.size
        sha256 = sibling.lfs.sha256 if sibling.lfs else ""
        git_sha1 = "" if sibling.lfs else (sibling.blob_id or "")
        if (
            not isinstance(sibling.rfilename, str)
            or not isinstance(size, int)
            or not 0 <= size <= _SIZE_LIMIT
            or (sha256 and not _HEX64.fullmatch(sha256))
            or (git_sha1 and not _HEX40.fullmatch(git_sha1))
        ):
            raise _not_a_hub(endpoint)
        files.append(RemoteFile(sibling.rfilename, size, sha256, git_sha1))
    return sha, tuple(sorted(files, key=lambda file: file.path))


# -- refusals ---------------------------------------------------------------------------


def explain_status(
    status: int, headers: Mapping[str, str], repo: str, endpoint: str
) -> DownloadError:
    """What a status other than 200 means, for somebody who wants `repo`."""
    host, code = _host(endpoint), headers.get("x-error-code", "")
    if code == "GatedRepo":
        return DownloadError(
            f"{repo} is gated: its authors want you to accept their terms first.",
            f"Accept them at {endpoint}/{repo}, and set HF_TOKEN to a token of your account.",
        )
    if code == "EntryNotFound":
        return DownloadError(
            f"{host} lists a file of {repo} that it does not have.", "Try again later."
        )
    if code == "RepoNotFound" or status in (401, 404):
        return DownloadError(
            f"{host} shows no model {repo}.",
            "Look at the spelling; if it is private or gated, set HF_TOKEN to a token that may "
            "read it.",
        )
    if status == 403:
        return DownloadError(
            f"{host} does not let you read {repo}.",
            "Set HF_TOKEN to a token that may read it.",
        )
    if status == 429:
        return DownloadError(
            f"{host} limits how much you may ask, and the limit is reached.",
            f"Wait {wait_asked(headers) or 300:.0f} seconds, or set HF_TOKEN, which raises it.",
        )
    if status >= 500:
        return DownloadError(f"{host} is in trouble (status {status}).", "Try again later.")
    return DownloadError(
        f"{host} answered with status {status}, which was not to be expected.",
        "Look at HF_ENDPOINT, if it is set, and try again.",
    )


def explain(error: Exception, endpoint: str) -> DownloadError:
    """What an error of the connection means."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    host, causes = _host(endpoint), list(_chain(error))
    if isinstance(error, OfflineModeIsEnabled):
        return DownloadError(
            "HF_HUB_OFFLINE is set, so that nothing may be fetched.", "Unset it, and try again."
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return DownloadError(
            f"The identity of {host} could not be verified (TLS).",
            "Look at the clock of this machine, and at the proxy between it and the internet.",
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return DownloadError(
            f"The name {host} could not be resolved.",
            "Look at the connection to the internet, and at HF_ENDPOINT, if it is set.",
        )
    if isinstance(error, httpx2.ProxyError):
        return DownloadError(f"The proxy refuses the way to {host}.", "Look at HTTPS_PROXY.")
    if isinstance(error, httpx2.TimeoutException):
        return DownloadError(f"{host} does not answer.", "Try again later.")
    if isinstance(error, httpx2.ConnectError):
        return DownloadError(
            f"{host} is out of reach.",
            "Look at the connection to the internet, and at HF_ENDPOINT, if it is set.",
        )
    return DownloadError(f"The connection to {host} broke.", "Try again.")


def wait_asked(headers: Mapping[str, str]) -> float:
    """How many seconds the hub wants to be left alone; 0 if it does not say."""
    told = headers.get("retry-after", "")
    match = re.search(r"\bt=(\d+)", headers.get("ratelimit", ""))
    seconds = told if told.isdecimal() else match[1] if match else "0"
    return float(min(int(seconds[:9]), 86_400))


def _refuse_status(response: Response, listing: Listing) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    error = explain_status(status, response.headers, listing.repo, listing.endpoint)
    raise Refusal(
        error,
        passing=status in _PASSING,
        wait_s=wait_asked(response.headers),
        restart=status == 416,  # the range begins behind the end: the file is another one now
    )


def _refuse_redirect(request: Request, listing: Listing) -> None:
    """A hub's files may lie elsewhere, but no answer may send us about the local network."""
    if request.url.scheme == "https" or request.url.host == urlsplit(listing.endpoint).hostname:
        return
    raise Refusal(
        DownloadError(
            f"{_host(listing.endpoint)} redirects to {request.url.host}, without encryption.",
            "Look at HF_ENDPOINT, if it is set, and at the network that you are in.",
        ),
        passing=False,
    )


def _no_branch(api: Any, repo: str, branch: str) -> DownloadError:
    import httpx2

    try:
        names = [str(ref.name)[:60] for ref in api.list_repo_refs(repo).branches]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        names = []
    there = f"There are: {', '.join(names[:20])}." if names else "Look at the page of the model."
    return DownloadError(f"{repo} has no branch {branch}.", there)


def _not_a_hub(endpoint: str) -> DownloadError:
    return DownloadError(
        f"{_host(endpoint)} does not answer as a hub does.",
        "Look at HF_ENDPOINT, if it is set, and at the network that you are in.",
    )


def _host(endpoint: str) -> str:
    return urlsplit(endpoint).netloc


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, at most ten steps back."""
    step: BaseException | None = error
    for _ in range(10):
        if step is None:
            return
        yield step
        step = step.__cause__ or step.__context__
