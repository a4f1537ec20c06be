"""Which files of a repository are taken: what Lantern loads, once, and never a pickle.

What is taken is listed here, and everything else is left out with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from modules.errors import DownloadError, InvalidInputError
from modules.loader.download.listing import RECORD_NAME, DownloadRequest, RemoteFile, is_plain_path

__all__ = ["Choice", "choose"]

_TEXT = {".json", ".txt", ".md", ".model", ".tiktoken", ".jinja", ".vocab", ".yaml", ".yml", ".py"}
_TEXT_NAMES = re.compile(r"(licen[cs]e|notice|use_policy|readme)[\w.-]*", re.IGNORECASE)
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_FOREIGN = re.compile(
    r"\.(msgpack|h5|ot|onnx|onnx_data|tflite|mlmodel|mlpackage|pb|nemo|xml|params)$"
)
_FOREIGN_FOLDERS = re.compile(
    r"(onnx|openvino|coreml|flax|tf|tensorflow|tflite|original|metal|runs|checkpoint-\d+)",
    re.IGNORECASE,
)
_FOREIGN_INDEX = re.compile(r"\.(bin|h5|msgpack)\.index\.json$")
_CONSOLIDATED = re.compile(r"consolidated[\w.-]*\.safetensors")
_VARIANT = re.compile(r"model\.\w+(-\d+-of-\d+)?\.safetensors")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])((?:I?Q|TQ)\d[A-Z0-9_]*|MXFP4[A-Z0-9_]*|BF16|F16|F32|FP16|FP32)"
    r"(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_QUANTIZATIONS = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "BF16", "F16")
"""The order in which one is taken: the best for its size first, then its neighbours."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The files to take; `left_out` has path and reason of each of the others."""

    files: tuple[RemoteFile, ...]
    left_out: tuple[tuple[str, str], ...]
    is_adapter: bool


class _Selection:
    """The files that are still in, and why the others are not."""

    def __init__(self, files: Iterable[RemoteFile]) -> None:
        self.files = list(files)
        self.left_out: list[tuple[str, str]] = []

    def drop(self, unwanted: Callable[[str], object], reason: str) -> None:
        """Leave out every file whose path is `unwanted`."""
        gone = {file.path for file in self.files if unwanted(file.path)}
        self.left_out += [(path, reason) for path in sorted(gone)]
        self.files = [file for file in self.files if file.path not in gone]

    def paths(self, *suffixes: str) -> list[str]:
        """The paths that end in one of `suffixes`."""
        return [file.path for file in self.files if file.path.endswith(suffixes)]


def choose(
    files: tuple[RemoteFile, ...],
    request: DownloadRequest,
    excluded: re.Pattern[str] | None,
    repo: str,
) -> Choice:
    """What to take of `files`. Raises DownloadError where nothing is left that can be used."""
    rest = _Selection(files)
    _drop_names(rest)
    is_adapter = _is_adapter(rest)
    if request.specific_file:
        _take_one(rest, request.specific_file, repo)
    else:
        _drop_foreign(rest)
        _drop_doubles(rest)
        if not request.text_only:
            _refuse_without_weights(rest, repo)
        else:
            rest.drop(_is_weights, "only texts were asked for")
    if excluded is not None:
        rest.drop(excluded.search, "it matches the pattern of files to leave out")
    if not rest.files:
        raise DownloadError(f"Nothing of {repo} is left to fetch.", "Ask for less to be left out.")
    return Choice(tuple(rest.files), tuple(sorted(rest.left_out)), is_adapter)


def _drop_names(rest: _Selection) -> None:
    rest.drop(lambda path: _name(path).startswith("."), "it is hidden")
    rest.drop(lambda path: not is_plain_path(path), "its name is not allowed")
    rest.drop(lambda path: _name(path).lower() == RECORD_NAME, "Lantern keeps its own")
    seen: set[str] = set()
    doubles = set()
    for file in rest.files:
        (doubles.add(file.path) if file.path.lower() in seen else seen.add(file.path.lower()))
    rest.drop(doubles.__contains__, "another one differs from it by capitals alone")


def _is_adapter(rest: _Selection) -> bool:
    """Whether it is a LoRA: it has the configuration of one, and no model of its own."""
    top = [path for path in rest.paths(".safetensors", ".gguf") if "/" not in path]
    own = [path for path in top if not path.startswith("adapter_")]
    return "adapter_config.json" in rest.paths(".json") and not own


def _take_one(rest: _Selection, wanted: str, repo: str) -> None:
    """Only the file that was named, with the other parts if it is one of a split GGUF."""
    paths = [file.path for file in rest.files]
    if wanted not in paths:
        raise InvalidInputError(
            f"{repo} has no file {wanted[:100]!r}, or none whose name is allowed.",
            _there_are(paths),
            field="specific_file",
        )
    if _suffix(wanted) in _PICKLES:
        raise DownloadError(
            f"{wanted} is a pickle, which can run code when it is loaded.",
            _safe_alternative(rest),
        )
    whole = _SPLIT.sub("", wanted)
    rest.drop(lambda path: _SPLIT.sub("", path) != whole, "another file was asked for")


def _drop_foreign(rest: _Selection) -> None:
    rest.drop(
        lambda path: any(_FOREIGN_FOLDERS.fullmatch(part) for part in path.split("/")[:-1]),
        "its folder is for other programs, or for training",
    )
    rest.drop(lambda path: _suffix(path) in _PICKLES, "pickles can run code")
    rest.drop(_FOREIGN.search, "it is for other programs")
    rest.drop(_FOREIGN_INDEX.search, "what it lists is left out")
    rest.drop(lambda path: not (_is_weights(path) or _is_text(path)), "a model does not need it")


def _drop_doubles(rest: _Selection) -> None:
    """Of several forms of the same weights, keep one."""
    top = [path for path in rest.paths(".safetensors") if "/" not in path]
    plain = [
        path for path in top if not (_CONSOLIDATED.fullmatch(path) or _VARIANT.fullmatch(path))
    ]
    if any(path.startswith("model") for path in plain):
        rest.drop(_CONSOLIDATED.fullmatch, "model.safetensors holds the same weights")
        rest.drop(_VARIANT.fullmatch, "model.safetensors holds the same weights")
    if top:
        rest.drop(lambda path: path.endswith(".gguf"), "the safetensors are taken")
    rest.drop(
        lambda path: path.endswith(".gguf") and "mmproj" in path.lower(), "it is for pictures"
    )
    groups = {_quantization(path) for path in rest.paths(".gguf")}
    if len(groups) > 1:
        kept = next((name for name in _QUANTIZATIONS if name in groups), min(groups))
        rest.drop(
            lambda path: path.endswith(".gguf") and _quantization(path) != kept,
            f"{kept} is taken; --specific-file takes this one",
        )


def _refuse_without_weights(rest: _Selection, repo: str) -> None:
    if rest.paths(".safetensors", ".gguf"):
        return
    pickles = [path for path, _ in rest.left_out if _suffix(path) in _PICKLES]
    if pickles:
        raise DownloadError(
            f"{repo} has its weights as pickles only ({pickles[0]}), which can run code when "
            "they are loaded.",
            _safe_alternative(rest),
        )
    raise DownloadError(
        f"{repo} has no weights that Lantern loads (safetensors or GGUF).",
        "Choose another model, or fetch its texts alone with --text-only.",
    )


def _safe_alternative(rest: _Selection) -> str:
    safe = rest.paths(".safetensors", ".gguf")
    if safe:
        return f"Take {safe[0]} instead."
    return (
        "Take a repository or a branch with safetensors: "
        "https://huggingface.co/spaces/safetensors/convert makes one, to be fetched with "
        "--branch refs/pr/NUMBER."
    )


def _there_are(paths: list[str]) -> str:
    shown = ", ".join(paths[:10])
    more = f", and {len(paths) - 10} more" if len(paths) > 10 else ""
    return f"There are: {shown}{more}." if paths else "It has no files."


def _quantization(path: str) -> str:
    """The quantization that the name of a GGUF file tells, or the name without its part."""
    whole = _SPLIT.sub("", path)
    told = _QUANTIZATION.findall(_name(whole))
    return told[-1].upper() if told else _name(whole)


def _is_weights(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf"))


def _is_text(path: str) -> bool:
    return _suffix(path) in _TEXT or _TEXT_NAMES.fullmatch(_name(path)) is not None


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _name(path: str) -> str:
    return path.rpartition("/")[2]
