"""The bodies of requests: read within bounds, and checked before anything runs."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from modules.api.errors import ApiError
from modules.chat.messages import Message, Role, ToolCall

__all__ = ["Body", "ChatBody", "CompletionBody", "body_of"]

_BODY_LIMIT = 8 * 1024 * 1024
_DRAINED = 64 * 1024 * 1024
_MOST_LOGPROBS = 20

Parsed = TypeVar("Parsed", bound=BaseModel)


class StreamOptions(BaseModel):
    """`stream_options`; OpenAI's others change nothing here."""

    include_usage: bool | None = None


class Body(BaseModel):
    """What both kinds of completion take. Sampling parameters are checked later, as extras."""

    model_config = ConfigDict(extra="allow")

    model: str | None = Field(None, max_length=500)
    n: int | None = Field(None, ge=1, le=8)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class CalledFunction(BaseModel):
    """What was called; `arguments` is the text of a JSON object."""

    name: ToolName
    arguments: str = "{}"

    @field_validator("arguments")
    @classmethod
    def _check_object(cls, value: str) -> str:
        try:
            arguments = json.loads(value or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise PydanticCustomError("arguments", "The arguments of a call must be a JSON object.")
        return value or "{}"


class Call(BaseModel):
    """A call that the assistant made earlier."""

    id: str = Field("", max_length=200)
    type: Literal["function"] = "function"
    function: CalledFunction


class Function(BaseModel):
    """A function that may be called; `parameters` is a JSON schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(BaseModel):
    """A tool of the only type that there is."""

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    """A function by its name."""

    name: ToolName


class NamedTool(BaseModel):
    """`tool_choice` that names a function."""

    type: Literal["function"]
    function: FunctionName


class ChatMessage(BaseModel):
    """One message; what a client kept of an earlier answer (`refusal`, …) is ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[Call] | None = Field(None, max_length=128)
    tool_call_id: str | None = Field(None, max_length=200)
    function_call: None = None

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, value: object) -> object:
        if isinstance(value, list):
            return "".join(_part_text(part) for part in value)
        return "" if value is None else value

    @field_validator("function_call", mode="before")
    @classmethod
    def _refuse_calls(cls, value: object) -> None:
        if value:
            raise PydanticCustomError("unsupported", "Use tool_calls in its place.")

    def as_message(self) -> Message:
        """The message as a chat template sees it."""
        role: Role | Literal["tool"] = "system" if self.role == "developer" else self.role
        calls = self.tool_calls if role == "assistant" else None
        made = (ToolCall(c.id, c.function.name, c.function.arguments) for c in calls or ())
        return Message(role, self.content, tool_calls=tuple(made), call_id=self.tool_call_id or "")


class ChatBody(Body):
    """`POST /v1/chat/completions`.

    `continue_final_message` leaves the last message open, and the reply goes on with it; beside
    it, `add_generation_prompt` is false, as vLLM has it.
    """

    messages: list[ChatMessage] = Field(min_length=1, max_length=20_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=_MOST_LOGPROBS)
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class CompletionBody(Body):
    """`POST /v1/completions`."""

    prompt: list[str] = Field(min_length=1, max_length=64)
    logprobs: int | None = Field(None, ge=0, le=_MOST_LOGPROBS)

    @field_validator("prompt", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        if isinstance(value, list) and any(isinstance(p, int | list) for p in value):
            raise PydanticCustomError(
                "unsupported", "Prompts of token ids are not supported; send text."
            )
        return [value] if isinstance(value, str) else value


def _part_text(part: object) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": str(kind)} if kind != "text":
            raise PydanticCustomError(
                "unsupported",
                "Content of type '{kind}' is not supported; send text.",
                {"kind": kind[:40]},
            )
    raise PydanticCustomError("content", "Content must be text, or a list of text parts.")


async def body_of(request: Request, kind: type[Parsed]) -> Parsed:
    """The body of `request` as `kind`. Raises ApiError for anything else."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            "The body must be JSON, sent with the header Content-Type: application/json.",
            code="invalid_content_type",
        )
    data = await _read(request)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise _explained(error) from None


async def _read(request: Request) -> bytes:
    data = bytearray()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= _BODY_LIMIT:
            data += chunk
        elif received > _DRAINED:
            break
    # Most clients read the answer only after they have sent everything, hence the draining.
    if received > _BODY_LIMIT:
        raise ApiError(
            f"The body is larger than {_BODY_LIMIT // 2**20} MB; send less text.",
            413,
            code="body_too_large",
        )
    return bytes(data)


def _explained(error: ValidationError) -> ApiError:
    """The first complaint, with the path of its field as OpenAI writes it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(f"The body is not valid JSON: {first['msg']}.", code="invalid_json")
    path = ""
    for step in first["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    missing = first["type"] == "missing"
    return ApiError(
        f"{path or 'body'}: {first['msg'].rstrip('.')}.",
        param=path or None,
        code="missing_required_parameter" if missing else "invalid_value",
    )
