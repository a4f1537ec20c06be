"""What is asked for, and what the hub has of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modules.errors import InvalidInputError, InvalidNameError
from modules.paths import safe_child

__all__ = [
    "RECORD_NAME",
    "DownloadRequest",
    "Listing",
    "RemoteFile",
    "child_of",
    "folder_name",
    "is_plain_path",
]

RECORD_NAME = "lantern-download.json"
"""The file, in a folder that was fetched, that says what was fetched."""

_NAME = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
_MODEL = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?::(?P<branch>[^:]*))?", re.ASCII)
_BRANCH = re.compile(r"[A-Za-z0-9][\w.+/-]{0,149}", re.ASCII)
_ADDRESS = re.compile(
    rf"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>{_NAME}/{_NAME})"
    r"(?:/(?:tree|blob|resolve)/(?P<branch>[\w.-]+))?(?:[/?#].*)?",
    re.ASCII,
)
_PATTERN_LIMIT = 200
_DEPTH_LIMIT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """What to fetch. `model` is `owner/name[:branch]`; `specific_file` is one file of it.

    `exclude_pattern` is a regular expression; a file is left out where it matches any part
    of the path.
    """

    model: str
    branch: str = ""
    text_only: bool = False
    specific_file: str = ""
    exclude_pattern: str = ""

    def repo_and_branch(self) -> tuple[str, str]:
        """`owner/name` and the branch, `main` unless one is named. Raises InvalidInputError."""
        model = self.model.strip()
        match = _MODEL.fullmatch(model)
        if match is None or ".." in model or "--" in match["repo"]:
            raise _not_a_model(model)
        named, given = match["branch"], self.branch.strip()
        if named and given and named != given:
            raise InvalidInputError(
                f"{model} names the branch {named}, and --branch names {given}.",
                "Give one of them.",
                field="branch",
            )
        branch = named or given or "main"
        if not _BRANCH.fullmatch(branch) or ".." in branch or branch.endswith("/"):
            raise InvalidInputError(
                f"{branch[:60]!r} cannot be the name of a branch.",
                "Copy the name from the list of branches on the page of the model.",
                field="branch",
            )
        return match["repo"], branch

    def excluded(self) -> re.Pattern[str] | None:
        """`exclude_pattern`, compiled. Raises InvalidInputError."""
        if not self.exclude_pattern:
            return None
        if len(self.exclude_pattern) > _PATTERN_LIMIT:
            raise InvalidInputError(
                f"The pattern of files to leave out is longer than {_PATTERN_LIMIT} characters.",
                "Give a shorter one.",
                field="exclude_pattern",
            )
        try:
            return re.compile(self.exclude_pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidInputError(
                f"{self.exclude_pattern!r} is not a regular expression: {error}.",
                r"To leave out all GGUF files, for example, give \.gguf$.",
                field="exclude_pattern",
            ) from error


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub; `size` in bytes.

    `sha256` is that of the content, told of large files; `git_sha1` is git's name for the
    content, told of small ones. Either is empty where the hub does not tell it.
    """

    path: str
    size: int
    sha256: str
    git_sha1: str = ""

    @property
    def has_hash(self) -> bool:
        """Whether its content can be verified."""
        return bool(self.sha256 or self.git_sha1)


@dataclass(frozen=True, slots=True)
class Listing:
    """What would be fetched, seen before anything moves.

    `revision` is the commit that the branch pointed to; `folder` is the name that the model
    gets below models/ (or loras/, if `is_adapter`). `left_out` says which files are not
    taken, and why. `endpoint` is the hub.
    """

    repo: str
    branch: str
    revision: str
    folder: str
    is_adapter: bool
    files: tuple[RemoteFile, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    endpoint: str = "https://huggingface.co"

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)


def folder_name(repo: str, branch: str) -> str:
    """The name of the folder: `owner_name`, or `owner_name_branch` off the main branch."""
    name = repo.replace("/", "_")
    return name if branch == "main" else f"{name}_{branch.replace('/', '-')}"


def is_plain_path(path: str) -> bool:
    """Whether `path`, which a hub told, may become one below a folder of ours."""
    try:
        return len(path) <= 300 and bool(child_of(Path("/nowhere"), path))
    except InvalidNameError:
        return False


def child_of(root: Path, path: str) -> Path:
    """The path of a hub's file below `root`. Raises InvalidNameError, as `safe_child`."""
    parts = path.split("/")
    if len(parts) > _DEPTH_LIMIT:
        raise InvalidNameError(f"{path[:60]!r} lies too deep.", "", field="name")
    for part in parts:
        root = safe_child(root, part)
    return root


def _not_a_model(model: str) -> InvalidInputError:
    address = _ADDRESS.fullmatch(model)
    if address is not None:
        branch = f":{address['branch']}" if address["branch"] not in (None, "main") else ""
        remedy = f"Of this address, give {address['repo']}{branch} alone."
    else:
        remedy = "Give owner/name or owner/name:branch, as in TheBloke/Llama-2-7B-GPTQ:main."
    shown = model if len(model) <= 80 else model[:77] + "..."
    return InvalidInputError(f"{shown!r} is not the name of a model on a hub.", remedy, "model")
