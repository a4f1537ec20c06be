"""`ToolUse`: which tools a reply may call, and which it must."""

from __future__ import annotations

from dataclasses import dataclass

from modules.api.errors import ApiError
from modules.api.requests import ChatBody, NamedTool
from modules.chat.messages import ToolCall
from modules.chat.tool_calls import CallReader
from modules.chat.tool_prompt import Tool

__all__ = ["ToolUse", "tool_use"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that are `offered`; the reply is a call of one of those `forced`, if any.

    At most `most` calls of a reply are taken.
    """

    offered: tuple[Tool, ...] = ()
    forced: tuple[Tool, ...] = ()
    most: int = 128

    def reader(self) -> CallReader:
        """What finds the calls in one reply."""
        return CallReader([tool.name for tool in self.offered], self.most)

    def read(self, text: str) -> tuple[str, list[ToolCall]]:
        """What in a whole reply is text, and what is calls."""
        reader = self.reader()
        shown = reader.push(text)
        return shown + reader.finish(), reader.calls


def tool_use(body: ChatBody) -> ToolUse:
    """What a request says of tools. Raises ApiError."""
    tools = tuple(
        Tool(t.function.name, t.function.description or "", t.function.parameters or {})
        for t in body.tools or ()
    )
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError("Two tools have the same name.", param="tools", code="invalid_value")
    most = 1 if body.parallel_tool_calls is False else 128
    match body.tool_choice:
        case None | "auto":
            _check_free(body, tools)
            return ToolUse(tools, most=most)
        case "none":
            return ToolUse()
        case "required":
            forced = tools
        case NamedTool(function=function):
            forced = tuple(tool for tool in tools if tool.name == function.name)
    if not forced:
        raise ApiError(
            "tool_choice wants a tool that is not among tools.",
            param="tool_choice",
            code="invalid_value",
        )
    return ToolUse(tools, forced, most)


def _check_free(body: ChatBody, tools: tuple[Tool, ...]) -> None:
    """Raise ApiError where a form of the reply would leave no way to call a tool."""
    form = (body.model_extra or {}).get("response_format")
    if tools and isinstance(form, dict) and form.get("type") != "text":
        raise ApiError(
            "A reply that keeps to response_format can call no tool; set tool_choice to none, or "
            "leave one of them out.",
            param="response_format",
        )
