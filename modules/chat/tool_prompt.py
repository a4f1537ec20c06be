"""How a model is told of tools: by its own chat template, or else in one plain convention."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.chat.messages import Message, ToolCall
from modules.chat.sandbox import RefusedError
from modules.chat.template import render
from modules.errors import TemplateError

__all__ = ["CallForm", "Tool", "ToolPrompt", "call_schema", "render_with_tools"]

_PROBE, _ANSWER = "lantern_probe", "LanternProbeAnswer"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> Mapping[str, Any]:
        """The schema of its arguments; an object in any case."""
        return {"type": "object", "properties": {}} | dict(self.parameters)

    def as_variable(self) -> dict[str, Any]:
        """The tool as a chat template sees it."""
        described = {
            "name": self.name, "description": self.description, "parameters": self.schema
        }  # fmt: skip
        return {"type": "function", "function": described}


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a model writes a call: after `opening`, an object with its name and `key`.

    `listed`: the object stands in a list.
    """

    opening: str = ""
    key: str = "arguments"
    listed: bool = False


_HERMES = CallForm("<tool_call>\n")


@dataclass(frozen=True, slots=True)
class ToolPrompt:
    """A prompt that tells of tools, and the form in which a call of one is to be expected."""

    text: str
    form: CallForm


def render_with_tools(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    *,
    special_tokens: Mapping[str, str],
    continue_final: bool = False,
) -> ToolPrompt:
    """The prompt for `messages`, in which tools are called and answer, and `tools` are told.

    `continue_final` leaves the last message open, as in `render`.

    Where the template does not take tools, their calls or their answers, the system message
    describes them, calls stand in the assistant's text, and answers in the user's. Raises
    TemplateError.
    """
    if _takes_tools(template, tuple(sorted(special_tokens.items()))):
        variables = [tool.as_variable() for tool in tools]
        try:
            text = render(
                template, messages, special_tokens=special_tokens, tools=variables,
                continue_final=continue_final,
            )  # fmt: skip
            return ToolPrompt(text, _form_of(template))
        except RefusedError:
            pass  # several calls in one message, mostly
    plain = _merged([*_described(tools), *map(_in_words, messages)])
    text = render(template, plain, special_tokens=special_tokens, continue_final=continue_final)
    return ToolPrompt(text, _HERMES)


@functools.lru_cache(maxsize=16)
def _takes_tools(template: str, special_tokens: tuple[tuple[str, str], ...]) -> bool:
    """Whether the template shows tools, calls and answers: found by a chat that has all three."""
    chat = [
        Message("user", "Hello."),
        Message("assistant", "", tool_calls=(ToolCall("lantern01", _PROBE, "{}"),)),
        Message("tool", _ANSWER, call_id="lantern01"),
    ]
    tools = [Tool(_PROBE, "Probes.").as_variable()]
    special = dict(special_tokens)
    try:
        offered = render(template, chat[:1], special_tokens=special, tools=tools)
        called = render(template, chat, special_tokens=special, tools=tools)
    except TemplateError:
        return False
    return _PROBE in offered and called.count(_PROBE) > 1 and _ANSWER in called


def _form_of(template: str) -> CallForm:
    """The form of calls that the template shows, by its marks."""
    if "<tool_call>" in template:
        return _HERMES
    if "[TOOL_CALLS]" in template and "[ARGS]" not in template:
        return CallForm("[TOOL_CALLS]", listed=True)
    if '"parameters": ' in template and '"arguments": ' not in template:
        return CallForm(key="parameters")  # Llama 3
    return CallForm()


def call_schema(tools: Sequence[Tool], form: CallForm) -> dict[str, Any]:
    """The JSON schema of a call of one of `tools` in the form `form`."""
    # References within a tool's schema begin at its own root, which is elsewhere now.
    defined = {
        f"tool{place}": _moved(tool.schema, f"#/$defs/tool{place}")
        for place, tool in enumerate(tools)
    }
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                form.key: {"$ref": f"#/$defs/tool{place}"},
            },
            "required": ["name", form.key],
            "additionalProperties": False,
        }
        for place, tool in enumerate(tools)
    ]
    call: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if form.listed:
        call = {"type": "array", "items": call, "minItems": 1, "maxItems": 1}
    return {"$defs": defined} | call


def _moved(part: Any, root: str) -> Any:
    if isinstance(part, Mapping):
        return {
            key: root + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, root)
            for key, value in part.items()
        }
    return [_moved(one, root) for one in part] if isinstance(part, list) else part


# -- the plain convention -----------------------------------------------------------------


def _described(tools: Sequence[Tool]) -> list[Message]:
    if not tools:
        return []
    lines = [json.dumps(tool.as_variable()["function"], ensure_ascii=False) for tool in tools]
    return [
        Message(
            "system",
            "You can call these tools, which are described as JSON:\n"
            + "\n".join(lines)
            + "\n\nTo call one, write its name and its arguments as JSON between marks, like this:"
            '\n<tool_call>\n{"name": "NAME", "arguments": {"KEY": "VALUE"}}\n</tool_call>\n'
            "What came of it stands in the next message, between <tool_response> and "
            "</tool_response>. Call none where you can answer without.",
        )
    ]


def _in_words(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = (
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n'
        "</tool_call>"
        for call in message.tool_calls
    )
    return Message(message.role, "\n".join(filter(None, [message.content, *calls])))


def _merged(messages: Sequence[Message]) -> list[Message]:
    """With neighbours of the same role as one message: templates insist on turns."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            text = "\n\n".join([merged.pop().content, message.content])
            merged.append(Message(message.role, text))
        else:
            merged.append(message)
    return merged
