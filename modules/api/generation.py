"""Requests to the engine, and the replies that come back, whichever form they get."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from modules.api.errors import ApiError
from modules.api.parameters import reply_limit, sampling_params
from modules.api.requests import Body, ChatBody, CompletionBody
from modules.api.structure import schema_params, structure_option
from modules.api.tool_use import ToolUse, tool_use
from modules.chat.messages import Message
from modules.chat.prompt import loaded_model, render_chat, usable_context
from modules.chat.template_choice import ChatTemplate, TemplateChoices
from modules.chat.tool_prompt import call_schema, render_with_tools
from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams, knobs
from modules.engine.protocol import Finished, GenerateRequest, ModelInfo, TokenChunk, TokenLogprob
from modules.errors import InvalidInputError

__all__ = [
    "Job",
    "Piece",
    "Reply",
    "Total",
    "chat_job",
    "collected",
    "completion_job",
    "finish_reason",
    "pieces",
]


@dataclass(frozen=True, slots=True)
class Job:
    """What one HTTP request asks of the engine: choices one after the other.

    `structure_option` is the option that says what form a reply has, where one does. `tools` may
    be called by replies. The prompts have `prompt_tokens` tokens together.
    """

    engine: EngineClient
    model: str
    choices: tuple[GenerateRequest, ...]
    prompts: int
    structure_option: str = ""
    tools: ToolUse = field(default_factory=ToolUse)
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """News of the choice `index`."""

    index: int
    item: TokenChunk | Finished


@dataclass(slots=True)
class Reply:
    """One finished choice."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str = "length"


@dataclass(slots=True)
class Total:
    """Tokens of all choices; a prompt with several choices counts once."""

    job: Job
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def add(self, index: int, end: Finished) -> None:
        """Count the choice `index`."""
        self.completion_tokens += end.usage.completion_tokens
        if index % (len(self.job.choices) // self.job.prompts) == 0:
            self.prompt_tokens += end.usage.prompt_tokens
            self.cached_tokens += end.usage.cached_tokens


async def chat_job(
    engine: EngineClient,
    body: ChatBody,
    templates: TemplateChoices,
    *,
    continue_final: bool = False,
) -> Job:
    """The prompt of a conversation. Turns are never dropped: it fits, or is refused.

    `continue_final` has the last message, the assistant's, go on.
    """
    info = loaded_model(engine)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    continue_final = continue_final or _goes_on(body)
    params, use = sampling_params(body), tool_use(body)
    _require_known(info, params)
    template = await asyncio.to_thread(templates.template_of, info)
    messages = [m.as_message() for m in body.messages]
    if use.offered or any(m.tool_calls or m.role == "tool" for m in messages):
        if continue_final:
            raise ApiError("A reply that is begun cannot go on with tools.", param="messages")
        prompt, params = await _tool_prompt(info, template, messages, use, params)
    else:
        prompt = await render_chat(info, template, messages, continue_final=continue_final)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    job = await _job(engine, info, body, _Prompts([prompt], params, False, logprobs, template.stop))
    return (
        replace(job, tools=use, structure_option="tools") if use.forced else replace(job, tools=use)
    )


def _require_known(info: ModelInfo, params: SamplingParams) -> None:
    """Raise ApiError for a parameter that the server of the model does not know.

    On this machine, the engine says so itself.
    """
    if info.server is None:
        return
    for name in info.unsupported:
        if getattr(params, name) != knobs()[name].neutral:
            raise ApiError(
                f"{info.server.kind} at {info.server.host} does not know {name}; leave it out.",
                param=name,
                code="unsupported_parameter",
            )


def _goes_on(body: ChatBody) -> bool:
    """Whether the last message is to be gone on with. Raises ApiError."""
    goes_on, generated = bool(body.continue_final_message), body.add_generation_prompt
    if generated is not None and generated == goes_on:
        raise ApiError(
            "add_generation_prompt is false with continue_final_message, and true without.",
            param="add_generation_prompt",
        )
    return goes_on


async def _tool_prompt(
    info: ModelInfo,
    template: ChatTemplate,
    messages: Sequence[Message],
    use: ToolUse,
    params: SamplingParams,
) -> tuple[str, SamplingParams]:
    """The prompt that tells of tools; a call that is forced begins in it, and has its form."""
    prompt = await asyncio.to_thread(
        render_with_tools,
        template.source,
        messages,
        use.offered,
        special_tokens=info.special_tokens,
    )
    if not use.forced:
        return prompt.text, params
    if params.structure != "none":
        raise ApiError(
            "A reply cannot be a call of a tool and keep to another form.", param="tool_choice"
        )
    form = schema_params("tools", call_schema(use.forced, prompt.form))
    return prompt.text + prompt.form.opening, params.replace(**form)


async def completion_job(engine: EngineClient, body: CompletionBody) -> Job:
    """Plain texts to continue."""
    info = loaded_model(engine)
    params = sampling_params(body)
    _require_known(info, params)
    return await _job(engine, info, body, _Prompts(body.prompt, params, True, body.logprobs))


@dataclass(frozen=True, slots=True)
class _Prompts:
    texts: Sequence[str]
    params: SamplingParams
    special_tokens: bool
    logprobs: int | None
    stop: tuple[str, ...] = ()


async def _job(engine: EngineClient, info: ModelInfo, body: Body, prompts: _Prompts) -> Job:
    counts = await engine.count_tokens(list(prompts.texts), prompts.special_tokens)
    context = usable_context(info, prompts.params)
    choices: list[GenerateRequest] = []
    for text, tokens in zip(prompts.texts, counts, strict=True):
        _check_length(body, tokens, context)
        params = prompts.params.replace(max_new_tokens=reply_limit(body, context - tokens))
        choices += _choices(prompts, text, params, body.n or 1)
    option = structure_option(body.model_extra or {})
    return Job(engine, info.name, tuple(choices), len(counts), option, prompt_tokens=sum(counts))


def _choices(
    prompts: _Prompts, text: str, params: SamplingParams, count: int
) -> Iterator[GenerateRequest]:
    for choice in range(count):
        # With one seed for all, they would be one text several times.
        seed = params.seed if params.seed < 0 else (params.seed + choice) % 2**31
        yield GenerateRequest(
            uuid.uuid4().hex,
            text,
            params.replace(seed=seed),
            prompts.special_tokens,
            prompts.logprobs,
            stop=prompts.stop,
        )


def _check_length(body: Body, tokens: int, context: int) -> None:
    param = "messages" if isinstance(body, ChatBody) else "prompt"
    if tokens >= context:
        raise ApiError(
            f"The prompt has {tokens:,} tokens, and the context holds {context:,} with the "
            "reply. Shorten it, or load a model with a longer context.",
            param=param,
            code="context_length_exceeded",
        )
    if tokens == 0:
        raise ApiError("The prompt is empty.", param=param, code="invalid_value")


async def pieces(job: Job) -> AsyncGenerator[Piece, None]:
    """What the engine says of each choice in turn. Closing it cancels the running one."""
    for index, request in enumerate(job.choices):
        async with _closing(job.engine.generate(request)) as items:
            try:
                async for item in items:
                    yield Piece(index, item)
            except InvalidInputError as error:
                field = job.structure_option or error.field
                raise InvalidInputError(error.message, error.remedy, field) from None


@asynccontextmanager
async def _closing(
    items: AsyncIterator[TokenChunk | Finished],
) -> AsyncIterator[AsyncIterator[TokenChunk | Finished]]:
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def collected(job: Job) -> tuple[list[Reply], Total]:
    """All choices, whole."""
    replies = [Reply() for _ in job.choices]
    total = Total(job)
    async with aclosing(pieces(job)) as stream:
        async for piece in stream:
            reply = replies[piece.index]
            if isinstance(piece.item, Finished):
                reply.finish_reason = finish_reason(piece.item)
                total.add(piece.index, piece.item)
            else:
                reply.text += piece.item.text
                reply.logprobs += piece.item.logprobs
    return replies, total


def finish_reason(end: Finished) -> str:
    """OpenAI's word for it; a reply that was cancelled here is cut, as by a limit."""
    return "length" if end.reason == "cancelled" else end.reason
