"""`ServerKind`: what each kind of server knows, and how it calls it.

Sources: https://docs.vllm.ai/en/latest/serving/openai_compatible_server/ and
vllm/entrypoints/openai/chat_completion/protocol.py;
https://docs.sglang.io/basic_usage/openai_api_completions.html and
sglang/srt/entrypoints/openai/protocol.py; https://platform.openai.com/docs/api-reference; and
transformers/cli/serving/ for `transformers serve`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from modules.engine.params import knobs

__all__ = ["LANTERN", "PLAIN", "SGLANG", "TRANSFORMERS", "VLLM", "ServerKind", "kind_of"]

Counting = Literal["vllm", "sglang", "lantern", "estimate"]

_EVERYWHERE = frozenset(
    {
        *("temperature", "do_sample", "top_p", "presence_penalty", "frequency_penalty", "seed"),
        *("max_new_tokens", "stop", "truncation_length", "logit_bias", "custom_token_bans"),
        *("structure", "structure_text"),
    }
)
_MORE = frozenset({"top_k", "min_p", "repetition_penalty", "min_length"})


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A program that serves models.

    `knows` are the fields of SamplingParams that it can be told. `forms` are the values of
    `structure` that it holds a reply to. `continues` are the roles of a last turn that it can
    go on with. `counting` is how it is asked for numbers of tokens. `most_stops` is how many
    stop strings a request may have. `adapter` is what a LoRA is called in a request, made of
    {base} and {adapter}; empty where requests cannot choose one.
    """

    name: str
    knows: frozenset[str]
    forms: frozenset[str]
    continues: frozenset[str] = frozenset()
    counting: Counting = "estimate"
    most_stops: int = 4
    adapter: str = ""

    @property
    def counts_chats(self) -> bool:
        """Whether it counts the tokens of a chat under its own template."""
        return self.counting == "vllm"

    @property
    def unsupported(self) -> tuple[str, ...]:
        """The parameters that are not sent, in the order of the page."""
        return tuple(name for name in knobs() if name not in self.knows)


PLAIN = ServerKind("OpenAI API", _EVERYWHERE, frozenset({"none", "json", "json_schema"}))
VLLM = ServerKind(
    "vLLM",
    _EVERYWHERE | _MORE,
    frozenset({"none", "json", "json_schema", "regex", "gbnf"}),
    continues=frozenset({"user", "assistant"}),
    counting="vllm",
    most_stops=64,
    adapter="{adapter}",
)
SGLANG = ServerKind(
    "SGLang",
    _EVERYWHERE | _MORE,
    # Its grammars are EBNF, which is another language than llama.cpp's.
    frozenset({"none", "json", "json_schema", "regex"}),
    continues=frozenset({"assistant"}),
    counting="sglang",
    most_stops=64,
    adapter="{base}:{adapter}",
)
LANTERN = ServerKind(
    "Lantern",
    frozenset(knobs()),
    frozenset({"none", "json", "json_schema", "regex", "gbnf"}),
    continues=frozenset({"user", "assistant"}),
    counting="lantern",
    most_stops=16,
)

TRANSFORMERS = ServerKind(
    "transformers serve",
    # It takes OpenAI's other fields as well, and passes over them.
    _EVERYWHERE - {"presence_penalty", "frequency_penalty", "structure", "structure_text"},
    frozenset({"none"}),
)

_BY_OWNER: Mapping[str, ServerKind] = MappingProxyType(
    {"vllm": VLLM, "sglang": SGLANG, "lantern": LANTERN}
)


def kind_of(entries: Sequence[Mapping[str, Any]]) -> ServerKind:
    """The kind of a server by its /v1/models; the plain API where nothing tells."""
    for entry in entries:
        owner, status = entry.get("owned_by"), entry.get("status")
        if isinstance(owner, str) and owner in _BY_OWNER:
            return _BY_OWNER[owner]
        if isinstance(status, Mapping) and "value" in status:
            return TRANSFORMERS
    return PLAIN
