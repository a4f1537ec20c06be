"""The bodies of Anthropic's API, and the conversation of OpenAI's that they come to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from modules.api.requests import ChatBody, ToolName

__all__ = ["CountBody", "MessagesBody", "as_chat"]

Json = dict[str, Any]


class TextBlock(BaseModel):
    """Text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(BaseModel):
    """What an assistant thought, which no model is told again."""

    type: Literal["thinking", "redacted_thinking"]


class ToolUseBlock(BaseModel):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: str = Field(max_length=200)
    name: ToolName
    input: dict[str, Any] = Field(default_factory=dict)


class ToolResultBlock(BaseModel):
    """What came of a call."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(max_length=200)
    content: str | list[TextBlock] = ""
    is_error: bool = False


Block = Annotated[
    TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
]


class Turn(BaseModel):
    """One message."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class AnthropicTool(BaseModel):
    """A tool that the client runs."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]


class AnthropicChoice(BaseModel):
    """Whether a tool is called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool = False


class CountBody(BaseModel):
    """`POST /v1/messages/count_tokens`."""

    model_config = ConfigDict(extra="allow")

    model: str | None = Field(None, max_length=500)
    messages: list[Turn] = Field(min_length=1, max_length=20_000)
    system: str | list[TextBlock] = ""
    tools: list[AnthropicTool] | None = Field(None, max_length=128)
    tool_choice: AnthropicChoice | None = None
    cache_control: Json | None = None


class MessagesBody(CountBody):
    """`POST /v1/messages`. Sampling parameters are checked later, as extras."""

    max_tokens: int = Field(ge=1, le=2**31 - 1)
    stop_sequences: list[str] | None = Field(None, max_length=16)
    stream: bool = False
    thinking: Json | None = None
    metadata: Json | None = None
    service_tier: str | None = None

    @field_validator("thinking")
    @classmethod
    def _refuse_thinking(cls, value: Json | None) -> Json | None:
        if value is not None and value.get("type") != "disabled":
            raise PydanticCustomError("unsupported", "thinking is not supported; leave it out.")
        return value


def as_chat(body: CountBody) -> ChatBody:
    """The same conversation in OpenAI's form. Raises pydantic's ValidationError."""
    system = _text(body.system)
    messages: list[Json] = [{"role": "system", "content": system}] if system else []
    for turn in body.messages:
        messages += _messages(turn)
    chat: Json = {"model": body.model, "messages": _joined(messages)} | _tools(body)
    if isinstance(body, MessagesBody):
        chat |= {"max_tokens": body.max_tokens}
        if body.stop_sequences:
            chat["stop"] = body.stop_sequences
    return ChatBody.model_validate((body.model_extra or {}) | chat)


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n\n".join(block.text for block in content)


def _messages(turn: Turn) -> Iterator[Json]:
    """Results of tools are messages of their own; calls belong to the text before them."""
    if isinstance(turn.content, str):
        yield {"role": turn.role, "content": turn.content}
        return
    texts, calls = [], []
    for block in turn.content:
        match block:
            case TextBlock():
                texts.append(block.text)
            case ToolUseBlock():
                arguments = json.dumps(block.input)
                calls.append(
                    {"id": block.id, "function": {"name": block.name, "arguments": arguments}}
                )
            case ToolResultBlock():
                told = _text(block.content)
                told = f"Error: {told}" if block.is_error else told
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": told}
    if texts or calls or not turn.content:
        message: Json = {"role": turn.role, "content": "".join(texts)}
        yield message | ({"tool_calls": calls} if calls and turn.role == "assistant" else {})


def _joined(messages: list[Json]) -> list[Json]:
    """Turns of one role that follow each other are one turn there."""
    joined: list[Json] = []
    for message in messages:
        last = joined[-1] if joined else {}
        if last.get("role") == message["role"] != "tool" and "tool_calls" not in last | message:
            last["content"] += "\n\n" + message["content"]
        else:
            joined.append(message)
    return joined


def _tools(body: CountBody) -> Json:
    if not body.tools:
        return {}
    found: Json = {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input_schema,
                },
            }
            for tool in body.tools
        ]
    }
    choice = body.tool_choice
    if choice is not None:
        named = {"type": "function", "function": {"name": choice.name or ""}}
        kinds: Json = {"auto": "auto", "any": "required", "none": "none", "tool": named}
        found |= {"tool_choice": kinds[choice.type]}
        found |= {"parallel_tool_calls": not choice.disable_parallel_tool_use}
    return found
