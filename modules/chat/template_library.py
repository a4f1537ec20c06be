"""Chat templates for models that have none, and which of them a model was trained on.

The BOS token stands in a template wherever its models saw one, because a rendered prompt is
tokenized without special tokens.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LIBRARY", "PLAIN", "Evidence", "LibraryTemplate", "Pick", "gather_evidence", "pick"]

_FOLDER = Path(__file__).parent / "templates"
_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)
# The added tokens stand at the beginning of tokenizer.json, the vocabulary after them.
_READ_LIMIT = 512 * 1024
_README_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class LibraryTemplate:
    """A prompt format: `templates/<key>.jinja`, and where it comes from.

    `stop` ends a reply where a model writes on in the user's name, or where the format's end
    of a turn is not the tokenizer's end token. `tokens` are those that a tokenizer has if its
    model was trained on the format; most formats are written in ordinary text.
    """

    key: str
    label: str
    stop: tuple[str, ...]
    origin: str
    tokens: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The template itself."""
        return _source(self.key)


@functools.cache
def _source(key: str) -> str:
    return (_FOLDER / f"{key}.jinja").read_text(encoding="utf-8")


PLAIN = LibraryTemplate("plain", "Plain text", ("\nUser:",), "")
"""What any base model continues."""

LIBRARY = {
    template.key: template
    for template in (
        LibraryTemplate(
            "chatml",
            "ChatML",
            ("<|im_end|>", "<|im_start|>"),
            "https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md",
            ("<|im_start|>",),
        ),
        LibraryTemplate(
            "llama-2",
            "Llama-2 chat",
            ("[INST]",),
            "https://github.com/meta-llama/llama/blob/main/llama/generation.py",
        ),
        LibraryTemplate(
            "llama-3",
            "Llama-3 instruct",
            ("<|eot_id|>", "<|start_header_id|>"),
            "https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py",
            ("<|start_header_id|>",),
        ),
        LibraryTemplate(
            "mistral",
            "Mistral instruct",
            ("[INST]",),
            "https://huggingface.co/mistralai/Mistral-7B-Instruct-v0.2",
        ),
        LibraryTemplate(
            "zephyr",
            "Zephyr",
            ("<|user|>",),
            "https://huggingface.co/HuggingFaceH4/zephyr-7b-beta",
        ),
        LibraryTemplate(
            "vicuna-1.1",
            "Vicuna v1.1",
            ("USER:",),
            "https://github.com/lm-sys/FastChat/blob/main/docs/vicuna_weights_version.md",
        ),
        LibraryTemplate(
            "alpaca",
            "Alpaca",
            ("### Instruction:",),
            "https://github.com/tatsu-lab/stanford_alpaca#data-release",
        ),
        LibraryTemplate(
            "gemma",
            "Gemma",
            ("<end_of_turn>", "<start_of_turn>"),
            "https://ai.google.dev/gemma/docs/core/prompt-structure",
            ("<start_of_turn>",),
        ),
        LibraryTemplate(
            "phi-3",
            "Phi-3",
            ("<|end|>", "<|user|>"),
            "https://huggingface.co/microsoft/Phi-3-mini-4k-instruct",
            ("<|end|>", "<|assistant|>"),
        ),
        LibraryTemplate(
            "guanaco", "Guanaco", ("### Human:",), "https://huggingface.co/timdettmers/guanaco-33b"
        ),
        LibraryTemplate(
            "openassistant",
            "OpenAssistant",
            ("<|prompter|>",),
            "https://huggingface.co/OpenAssistant/oasst-sft-4-pythia-12b-epoch-3.5",
            ("<|prompter|>",),
        ),
        PLAIN,
    )
}
"""By key, in the order in which the page offers them."""


# -- picking one ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one format or another: the folder's name, and text of its files."""

    name: str
    architecture: str = ""
    tokenizer: str = ""
    readme: str = ""


@dataclass(frozen=True, slots=True)
class Pick:
    """A template, and the reason for it in a sentence."""

    template: LibraryTemplate
    reason: str


# The first that matches counts. A name tells more than a token, since a fine-tune keeps the
# tokens of its base whether it uses them or not.
_NAMES = (
    ("chatml", r"chatml|dolphin|openhermes|hermes-2|hermes-3|openorca|orca-2"),
    ("chatml", r"(qwen|smollm|yi-).*(chat|instruct)"),
    ("vicuna-1.1", r"vicuna|wizardlm-(13|30|70)b"),
    ("guanaco", r"guanaco"),
    ("alpaca", r"alpaca|wizardcoder|mythomax|nous-hermes"),
    ("zephyr", r"zephyr|tinyllama.*chat"),
    ("openassistant", r"oasst|openassistant"),
    ("llama-3", r"llama-?3(?!\d*b).*(instruct|chat)"),
    ("llama-2", r"llama-?2(?!\d*b).*chat|codellama.*instruct"),
    ("mistral", r"(mistral|mixtral).*instruct"),
    ("gemma", r"gemma.*-(it|instruct)\b"),
    ("phi-3", r"phi-?3"),
)
_TOKENS = (
    *((template.key, template.tokens) for template in LIBRARY.values() if template.tokens),
    ("mistral", ("[INST]",)),  # since its third version; before, that was text
)
_README_MARKS = (
    ("chatml", "<|im_start|>"),
    ("llama-3", "<|start_header_id|>"),
    ("gemma", "<start_of_turn>"),
    ("openassistant", "<|prompter|>"),
    ("llama-2", "<<SYS>>"),
    ("alpaca", "### Instruction:"),
    ("guanaco", "### Human:"),
    ("vicuna-1.1", "ASSISTANT:"),
)
_ARCHITECTURES = (("mistral", "Mistral"), ("mistral", "Mixtral"), ("phi-3", "Phi3"))
_CHATTY = re.compile(r"chat|instruct|assistant|\b(it|sft|dpo|rlhf)\b")


def pick(evidence: Evidence) -> Pick:
    """The format that the evidence speaks for; plain text where nothing does."""
    name = re.sub(r"[_ ]", "-", evidence.name.lower())
    found = next(_candidates(evidence, name), None)
    if found is not None:
        key, reason = found
        template = LIBRARY[key]
        return Pick(template, f"{reason}, so {template.label}.")
    if _CHATTY.search(name):
        reason = "Nothing tells which format it was trained on, so turns are plain text."
    else:
        reason = "Nothing says that it was trained to chat: a base model, so turns are plain text."
    return Pick(PLAIN, reason)


def _candidates(evidence: Evidence, name: str) -> Iterator[tuple[str, str]]:
    """Keys and why, the strongest evidence first."""
    for key, pattern in _NAMES:
        if match := re.search(pattern, name):
            yield key, f"Its name has “{match[0]}”"
    for key, tokens in _TOKENS:
        if all(f'"{token}"' in evidence.tokenizer for token in tokens):
            doubt = "" if _CHATTY.search(name) else " (though its name is that of a base model)"
            yield key, f"The tokenizer has {' and '.join(tokens)}{doubt}"
    marked = [(key, mark) for key, mark in _README_MARKS if mark in evidence.readme]
    if len(marked) == 1:  # a README with several compares them
        yield marked[0][0], f"Its README has {marked[0][1]}"
    for key, start in _ARCHITECTURES:
        if evidence.architecture.startswith(start) and _CHATTY.search(name):
            yield key, f"Its architecture is {evidence.architecture}"


def gather_evidence(folder: Path, architecture: str) -> Evidence:
    """The evidence in a model's folder; what cannot be read is none."""
    tokenizer = "\n".join(_beginning(folder / name, _READ_LIMIT) for name in _TOKENIZER_FILES)
    readme = _beginning(folder / "README.md", _README_LIMIT)
    return Evidence(folder.name, architecture, tokenizer, readme)


def _beginning(file: Path, limit: int) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""
