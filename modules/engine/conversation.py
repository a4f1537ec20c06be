"""`Conversation`: a chat as a server elsewhere gets it, which applies the chat template itself.

Everything above the engine makes prompts by templates. For a model whose template is not known
here, `TEMPLATE` writes the messages down, a line of JSON each, and leaves the last one open;
`read_conversation` reads them again. So chat modes, tools, begun replies and the cutting of old
turns need to know nothing of servers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["TEMPLATE", "Conversation", "Turn", "read_conversation"]

_HEAD = "lantern-messages"
_OPENED = '{"role": "assistant", "content": "'

TEMPLATE = (
    f"{{{{ '{_HEAD}\\n' }}}}"
    "{%- for m in messages -%}"
    '{{ \'{"role": \' ~ m.role | tojson ~ \', "content": \' ~ m.content | tojson ~ "}\\n" }}'
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{ '{_OPENED}' }}}}{{%- endif -%}}"
)
"""A chat template. What follows the prompt that it makes is the beginning of the reply."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Who says what: "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns that have ended, and the one that is to be written, by `role` from `begun` on."""

    turns: tuple[Turn, ...]
    role: str = "assistant"
    begun: str = ""

    @property
    def continued(self) -> bool:
        """Whether the last turn goes on, rather than being a reply that has not begun."""
        return self.role != "assistant" or bool(self.begun)

    @property
    def messages(self) -> list[dict[str, str]]:
        """All turns in OpenAI's form, the open one too if it has begun."""
        turns = [*self.turns, Turn(self.role, self.begun)] if self.continued else self.turns
        return [{"role": turn.role, "content": turn.content} for turn in turns]


def read_conversation(prompt: str) -> Conversation | None:
    """What TEMPLATE wrote down; None for any other prompt."""
    head, *lines = prompt.split("\n")
    if head != _HEAD or not lines:
        return None
    turns = []
    while lines and (turn := _turn(lines[0])) is not None:
        turns.append(turn)
        del lines[0]
    # What was begun may have been added to the prompt as it is, line breaks and all.
    rest = "\n".join(lines)
    last = _turn(rest + '"}')
    if last is None and rest.startswith(_OPENED):
        last = Turn("assistant", rest.removeprefix(_OPENED))
    return None if last is None else Conversation(tuple(turns), last.role, last.content)


def _turn(line: str) -> Turn | None:
    try:
        found = json.loads(line, strict=False)
    except (ValueError, RecursionError):
        return None
    match found:
        case {"role": str(role), "content": str(content)}:
            return Turn(role, content)
    return None
