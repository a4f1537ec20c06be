"""Chatting with what is trained: a checkpoint over the loaded base, alone or beside others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.access import Caller
from modules.chat.messages import Message
from modules.chat.prompt import build_chat_prompt
from modules.context import AppContext
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest
from modules.errors import AdapterError, EngineError, LanternError, NotFoundError
from modules.loader.adapters import find_adapter
from modules.loader.catalog import find_model
from modules.training.store import Run
from modules.ui import models
from modules.ui.streaming import new_request_id

__all__ = ["Side", "chat_with", "checkpoint", "compare", "finished"]

_TOKENS = 256
"""The most that each of the compared replies has."""


@dataclass(frozen=True, slots=True)
class Side:
    """A LoRA as it is applied: its name, its folder, and the model that it was trained on."""

    name: str
    path: Path
    base: str = ""


def finished(ctx: AppContext, name: str, run_id: str = "") -> Side:
    """The folder of this name in loras/, made by the run `run_id`, where that is known.

    Raises AdapterError and NotFoundError.
    """
    base = ctx.training.store.get(run_id).config.base if run_id else ""
    return Side(name, find_adapter(ctx.settings.lora_dir, name), base)


def checkpoint(ctx: AppContext, run_id: str, step: int) -> Side:
    """A checkpoint of a run. Raises NotFoundError for one that is no longer there."""
    run = ctx.training.store.get(run_id)
    point = next((one for one in run.checkpoints if one.step == step), None)
    if point is None:
        raise NotFoundError(
            f"The checkpoint of step {step:,} is no longer there.",
            "Choose another one; the setting Checkpoints kept says how many stay.",
        )
    return Side(_name(ctx, run, step, point.path), point.path, run.config.base)


def _name(ctx: AppContext, run: Run, step: int, path: Path) -> str:
    """ "teach-lantern@120"; with the run's id where another run of that name is applied."""
    name = f"{run.config.name or run.id}@{step}"
    applied = {one.info.name: Path(one.info.path) for one in ctx.engine.state.adapters}
    return name if applied.get(name, path) == path else f"{run.id}@{step}"


async def chat_with(ctx: AppContext, caller: Caller, side: Side, *, load: bool) -> dict[str, Any]:
    """Lay a checkpoint over the model and open a chat of its own with it.

    Other chats stay as they are. Where its base is not what is loaded, the answer says so,
    unless `load` has it loaded first. Raises EngineError, AdapterError and ModelError.
    """
    base = find_model(ctx.settings.model_dir, side.base)
    state = ctx.engine.state
    if state.phase != "ready" or Path(state.path) != base:
        _require_no_training(ctx)
        if not load:
            return {"base": side.base, "loaded": state.info.name if state.info else ""}
        job = models.load(ctx, side.base)
        await job.wait()
        if job.error is not None:
            raise job.error
    await _apply(ctx, side)
    chat = await ctx.chats.create(caller.user)
    await ctx.chats.change(chat.id, caller.user, adapters=((side.name, 1.0),))
    return {"chat": chat.id, "name": side.name}


def _require_no_training(ctx: AppContext) -> None:
    if ctx.training.stepped_aside:
        raise EngineError(
            "The training takes the memory that the chat model needs.",
            "The chat model comes back by itself when the run ends; or stop the run.",
        )


async def _apply(ctx: AppContext, side: Side) -> None:
    """Lay a LoRA over the model, off in all requests but those that name it."""
    applied = {one.info.name: Path(one.info.path) for one in ctx.engine.state.adapters}
    if applied.get(side.name) == side.path:
        return
    await ctx.engine.load_adapter(side.name, str(side.path))
    ctx.engine.weigh_adapters({side.name: 0.0})


# -- side by side -------------------------------------------------------------------------


async def compare(ctx: AppContext, prompt: str, sides: Sequence[Side]) -> AsyncIterator[str]:
    """The base and each of `sides` answer `prompt`, as lines of JSON that name a column.

    Column 0 is the base. What fails is a line with `fault`.
    """
    told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    task = asyncio.create_task(_answer_all(ctx, prompt, sides, told))
    try:
        while (line := await told.get()) is not None:
            yield json.dumps(line, ensure_ascii=False) + "\n"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _answer_all(
    ctx: AppContext, prompt: str, sides: Sequence[Side], told: asyncio.Queue[dict[str, Any] | None]
) -> None:
    try:
        _require_no_training(ctx)
        for side in sides:
            _require_base(ctx, side)
            await _apply(ctx, side)
        params = SamplingParams.neutral(temperature=0.0, max_new_tokens=_TOKENS)
        made = await build_chat_prompt(ctx.engine, [Message("user", prompt)], params, ctx.templates)
        mixes = [(), *(((side.name, 1.0),) for side in sides)]
        requests = [
            GenerateRequest(
                new_request_id(),
                made.text,
                params,
                made.special_tokens,
                adapters=mix,
                stop=made.stop,
            )
            for mix in mixes
        ]
        async with asyncio.TaskGroup() as group:
            for column, request in enumerate(requests):
                group.create_task(_answer(ctx, request, column, told))
    except LanternError as error:
        told.put_nowait({"fault": str(error)})
    finally:
        told.put_nowait(None)


def _require_base(ctx: AppContext, side: Side) -> None:
    loaded = Path(ctx.engine.state.path).name
    if side.base and side.base != loaded:
        raise AdapterError(
            f"{side.name} is a LoRA for {side.base}, and {loaded or 'no model'} is loaded.",
            f"Load {side.base}; Chat with this offers it.",
        )


async def _answer(
    ctx: AppContext,
    request: GenerateRequest,
    column: int,
    told: asyncio.Queue[dict[str, Any] | None],
) -> None:
    """Stream one reply; that it fails ends none of the others."""
    try:
        async with aclosing(ctx.engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    usage = event.usage
                    speed = f"{usage.completion_tokens:,} tokens · {usage.tokens_per_s:.0f} tok/s"
                    told.put_nowait({"column": column, "stats": speed})
                elif event.text:
                    told.put_nowait({"column": column, "text": event.text})
    except LanternError as error:
        told.put_nowait({"column": column, "stats": str(error)})
