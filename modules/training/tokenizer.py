"""`FileTokenizer`: a model's tokenizer from its files, without transformers.

The page and the run read the same files by the same code, so that a preview shows exactly the
tokens that are trained on. Ids are those of transformers' tokenizer, which the chat uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from modules.errors import ModelNotFoundError, NotAModelError
from modules.loader.json_files import AGAIN, read_object

__all__ = ["Encoded", "FileTokenizer"]

Encoded = tuple[list[int], list[tuple[int, int]]]
"""Ids, and where each begins and ends in the text, in characters."""

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
_LLAMA_CLASSES = ("LlamaTokenizer", "CodeLlamaTokenizer")
_LLAMA_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


class FileTokenizer:
    """Text to ids by the `tokenizer.json` in a model's folder.

    `special_tokens` are named as chat templates know them; `chat_template` is the model's own,
    or None; `end_ids` are the tokens that the model ends its turn with.

    Raises ModelNotFoundError where there is no such folder, and NotAModelError where it has no
    tokenizer.json, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ModelNotFoundError(f"There is no folder {folder}.", "Choose one in models/.")
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise NotAModelError(
                f"{folder.name} has no tokenizer.json, which training needs.",
                "Download it from the model's page into the folder.",
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises no other
            told = f"{folder.name}/tokenizer.json cannot be read: {str(error)[:200]}."
            raise NotAModelError(told, AGAIN) from error
        settings = _settings(folder, "tokenizer_config.json")
        config = _settings(folder, "config.json")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        as_llama = _is_llama(settings, config, file)
        if as_llama:
            self._split_as_llama(settings)
        self.special_tokens = _special_tokens(folder, settings, as_llama)
        self._add_missing(folder, settings)
        self.chat_template = _chat_template(folder, settings)
        self.end_ids = self._ends(folder, config)
        self.bos = self._beginning()

    def encode(self, text: str) -> Encoded:
        """The ids of a text, no special token added, and where each stands in it."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """The same for many texts, on all cores.

        Raises UnicodeEncodeError or TypeError for text with half a surrogate pair.
        """
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(one.ids, one.offsets) for one in found]

    def pieces(self, text: str, encoded: Encoded) -> list[str]:
        """What each token shows of its text; put together, they are the text as far as it goes.

        A token that shows none of it (an added one, or a byte in the middle of a character) is
        shown by its name.
        """
        shown, at = [], 0
        for i, (_, stop) in zip(*encoded, strict=True):
            stop = max(stop, at)
            shown.append(text[at:stop] or self.name_of(i))
            at = stop
        return shown

    def id_of(self, token: str) -> int | None:
        """The id of one token, by its name."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def name_of(self, i: int) -> str:
        """The name of one token, by its id."""
        return self._tokenizer.id_to_token(i) or f"<{i}>"

    @property
    def eos(self) -> int | None:
        """The token that ends a text, if there is one."""
        name = self.special_tokens.get("eos_token")
        return None if name is None else self.id_of(name)

    def _split_as_llama(self, settings: Mapping[str, Any]) -> None:
        """Set up what transformers' LlamaTokenizer does in place of what the file says."""
        prefix = settings.get("add_prefix_space")
        scheme = "never"
        if prefix is None or prefix:
            older = settings.get("legacy", False) and "Code" not in settings["tokenizer_class"]
            scheme = "always" if older else "first"
        self._tokenizer.normalizer = None
        self._tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement="▁", prepend_scheme=scheme, split=False
        )
        self._tokenizer.model.byte_fallback = True
        self._tokenizer.model.fuse_unk = True

    def _add_missing(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Add the tokens that stand beside tokenizer.json alone, in transformers' order."""
        added = settings.get("added_tokens_decoder")
        listed = [(int(i), _added(token)) for i, token in _entries(added) if str(i).isdigit()]
        if added is None:
            named = _entries(_settings(folder, "added_tokens.json"))
            special = self.special_tokens.values()
            listed = [
                (i, AddedToken(name, normalized=name not in special, special=name in special))
                for name, i in named
                if isinstance(i, int)
            ]
        tokens = [token for _, token in sorted(listed, key=lambda entry: entry[0])]
        tokens += [AddedToken(name, special=True) for name in self.special_tokens.values()]
        for key in ("extra_special_tokens", "additional_special_tokens"):
            more = settings.get(key)
            tokens += [_added(token) for token in more] if isinstance(more, list) else []
        for token in tokens:
            if token is not None and self.id_of(token.content) is None:
                self._tokenizer.add_tokens([token])

    def _ends(self, folder: Path, config: Mapping[str, Any]) -> frozenset[int]:
        generation = _settings(folder, "generation_config.json")
        listed = generation.get("eos_token_id", config.get("eos_token_id"))
        ids = listed if isinstance(listed, list) else [listed]
        known = {i for i in ids if isinstance(i, int) and self._tokenizer.id_to_token(i)}
        return frozenset(known if self.eos is None else known | {self.eos})

    def _beginning(self) -> int | None:
        """The token that plain text begins with: what tokenizer.json says, as transformers does.

        `add_bos_token` in tokenizer_config.json counts for nothing beside it.
        """
        name = self.special_tokens.get("bos_token")
        bos = None if name is None else self.id_of(name)
        first = self._tokenizer.encode("a").ids[:1]
        return bos if bos is not None and first == [bos] else None


def _settings(folder: Path, name: str) -> dict[str, Any]:
    file = folder / name
    return read_object(file) if file.is_file() else {}


def _is_llama(settings: Mapping[str, Any], config: Mapping[str, Any], file: Path) -> bool:
    """Whether AutoTokenizer takes LlamaTokenizer, which splits text in a way of its own.

    Other types of model that name it, as Mistral's, are read by what tokenizer.json says, and
    so is a Llama whose tokenizer is byte-level.
    """
    named = str(settings.get("tokenizer_class")).removesuffix("Fast")
    if named not in _LLAMA_CLASSES or config.get("model_type") not in ("llama", None):
        return False
    return '"ByteLevel"' not in json.dumps(
        {k: v for k, v in read_object(file).items() if k in ("pre_tokenizer", "decoder")}
    )


def _special_tokens(folder: Path, settings: Mapping[str, Any], as_llama: bool) -> dict[str, str]:
    standard: Mapping[str, Any] = _LLAMA_TOKENS if as_llama else {}
    # Beside a list of added tokens, transformers does not look into the older file; without
    # one, that file counts more.
    older = "added_tokens_decoder" not in settings
    former = _settings(folder, "special_tokens_map.json") if older else {}
    found = {key: _added({**standard, **settings, **former}.get(key)) for key in _NAMED}
    return {key: token.content for key, token in found.items() if token is not None}


def _added(value: Any) -> AddedToken | None:
    """A token as tokenizer_config.json writes one: its text, or an object about it."""
    if isinstance(value, str) and value:
        return AddedToken(value, special=True)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        return None
    kinds = ("lstrip", "rstrip", "single_word", "normalized", "special")
    return AddedToken(value["content"], **{k: bool(value[k]) for k in kinds if k in value})


def _entries(value: Any) -> list[tuple[Any, Any]]:
    return [*value.items()] if isinstance(value, dict) else []


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The model's own, from where transformers looks first; of several, the default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    value = _settings(folder, "chat_template.json").get("chat_template")
    value = value or settings.get("chat_template")
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default")
    return value if isinstance(value, str) and value else None
