"""From messages to the text that a model was trained on, by its own chat template."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from modules.chat.messages import Message
from modules.chat.sandbox import Program, RefusedError
from modules.errors import TemplateError

__all__ = ["render"]

_TEMPLATE_LIMIT = 128 * 1024
"""Characters; the longest templates in use (with tool calls) have about 30,000."""
_OUTPUT_LIMIT = 4 * 1024 * 1024
_WORK_LIMIT = 64 * 1024 * 1024
_SECONDS = 1.0
_SENTINEL = "LanternContinuesHere"
_OPENING = "Hello."
"""What a greeting answers, where a template wants a question before it."""


def render(
    template: str | Program,
    messages: Sequence[Message],
    *,
    special_tokens: Mapping[str, str],
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = True,
    continue_final: bool = False,
) -> str:
    """The prompt for `messages`, with the generation prompt unless told otherwise.

    `tools` are the template's variable of that name, in OpenAI's form; it may ignore them.

    `continue_final` leaves the last message, whoever's it is, open instead: the prompt
    ends with its content. System text goes into the next user message where the template
    refuses or drops system messages. Raises TemplateError for a template that is
    damaged, refuses the conversation, or exceeds 128 KiB, its output or 1 s. Who renders many
    conversations by one template gives it as a `Program`.
    """
    program = template if isinstance(template, Program) else Program(template)
    if len(program.source) > _TEMPLATE_LIMIT:
        raise TemplateError(
            f"The chat template has {len(program.source):,} characters, "
            f"and {_TEMPLATE_LIMIT:,} are allowed.",
            "Use a checkpoint with another chat template, or the Notebook tab.",
        )

    def fill(variant: Sequence[Message]) -> str:
        generate = add_generation_prompt and not continue_final
        return _filled(program, variant, special_tokens, tools, generate)

    if not continue_final:
        return _with_system(fill, messages)
    sentinel = _absent_from(messages)
    text = _with_system(fill, _opened(messages, sentinel))
    end = text.rfind(sentinel)
    if end < 0:
        raise TemplateError(
            "The chat template leaves out the message that is to be continued.",
            "Write it yourself, or have it regenerated.",
        )
    return text[:end]


def _filled(
    program: Program,
    messages: Sequence[Message],
    special_tokens: Mapping[str, str],
    tools: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
) -> str:
    size = sum(len(m.content) + sum(len(c.arguments) for c in m.tool_calls) for m in messages)
    size += 2 * len(json.dumps(tools))  # what is indented has more characters
    variables = dict(special_tokens) | {
        "messages": [_as_variable(m) for m in messages],
        "tools": list(tools) or None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    return program.run(
        variables,
        output=_OUTPUT_LIMIT + size,
        work=_WORK_LIMIT + 32 * size,
        seconds=_SECONDS,
    )


def _as_variable(message: Message) -> dict[str, Any]:
    """A message in the form that templates of Hugging Face expect."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "id": _short(call.id),
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        found["tool_call_id"] = _short(message.call_id)
    return found


def _short(call_id: str) -> str:
    """Mistral's templates refuse an id of another form than nine letters and digits."""
    if re.fullmatch("[A-Za-z0-9]{9}", call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:9]


# -- system messages ----------------------------------------------------------------------


def _with_system(fill: Callable[[Sequence[Message]], str], messages: Sequence[Message]) -> str:
    """The first way of placing the system text that the template takes and shows."""
    *variants, last = _placements(messages)
    for variant in variants:
        try:
            text = fill(variant)
        except RefusedError:
            continue
        if _shows_system(fill, variant, text):
            return text
    return fill(last)


def _placements(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    first = next((m.role for m in messages if m.role != "system"), None)
    yield messages
    if any(m.role == "system" for m in messages[1:]):
        yield [*messages[:1], *_folded(messages[1:])]
    if any(m.role == "system" for m in messages):
        yield _folded(messages)
    if first == "assistant":
        yield _questioned(messages)


def _folded(messages: Sequence[Message]) -> list[Message]:
    """System text before the next user message, in the same message."""
    folded: list[Message] = []
    pending: list[str] = []
    for message in messages:
        if message.role == "system":
            pending += [message.content] if message.content.strip() else []
        elif message.role == "user":
            folded.append(Message("user", "\n\n".join([*pending, message.content])))
            pending = []
        else:
            folded.append(message)
    if pending:
        # After the last user message there is only the reply; the text goes before it.
        at = next((i for i, m in reversed([*enumerate(folded)]) if m.role == "user"), None)
        if at is None:
            return [Message("user", "\n\n".join(pending)), *folded]
        folded[at] = Message("user", "\n\n".join([folded[at].content, *pending]))
    return folded


def _questioned(messages: Sequence[Message]) -> list[Message]:
    """A chat that opens with a greeting, for templates that insist on a user's message first."""
    turns = [m for m in messages if m.role != "system"]
    system = "\n\n".join(m.content for m in messages if m.role == "system" and m.content.strip())
    return [Message("user", system or _OPENING), *turns]


def _shows_system(
    fill: Callable[[Sequence[Message]], str], messages: Sequence[Message], text: str
) -> bool:
    if all(m.content.strip() in text for m in messages if m.role == "system"):
        return True
    # The template may have rewritten the text (as JSON, say); a bare word comes through.
    word = _absent_from(messages)
    probe = [Message(m.role, word) if m.role == "system" else m for m in messages]
    return fill(probe).count(word) >= sum(m.role == "system" for m in messages)


# -- continuing ---------------------------------------------------------------------------


def _opened(messages: Sequence[Message], sentinel: str) -> list[Message]:
    if not messages:
        raise TemplateError("There is no message to be continued.", "Send one.")
    return [*messages[:-1], Message(messages[-1].role, messages[-1].content + sentinel)]


def _absent_from(messages: Sequence[Message]) -> str:
    """A word that occurs in no message; no white space, so that trimming spares it."""
    word = _SENTINEL
    while any(word in m.content for m in messages):
        word += "Indeed"
    return word
