"""What the page does with the models of a server elsewhere (`--loader openai`)."""

from __future__ import annotations

import asyncio
from typing import Any

from modules.chat.template_library import LIBRARY
from modules.context import AppContext
from modules.engine.client import Catalog, EngineState, ServedModel
from modules.engine.protocol import LoadModel, ModelInfo
from modules.engine.swap import apply_again
from modules.errors import ModelNotFoundError
from modules.jobs import Job

__all__ = [
    "begin_served",
    "card_json",
    "details",
    "listed_json",
    "load_served",
    "served_adapters_json",
    "served_template_json",
]


def load_served(ctx: AppContext, name: str, before: EngineState | None = None) -> Job:
    """Choose a model of the server as a job; the LoRAs of `before` are applied again."""

    async def work(job: Job) -> None:
        await _load(ctx, name, job)
        lost = await apply_again(ctx.engine, before) if before else []
        if lost:
            job.notes = (*job.notes, f"Not applied again: {', '.join(lost)}.")

    return ctx.jobs.submit(f"Connecting to {name}", work, kind="load")


async def begin_served(ctx: AppContext, catalog: Catalog, job: Job) -> None:
    """What a launch does: choose what --model names, or the first that the server has."""
    job.title = f"Connecting to {catalog.host}"
    await _load(ctx, ctx.settings.model, job)


async def _load(ctx: AppContext, name: str, job: Job) -> None:
    job.report("Asking the server", 0.5)
    info = await ctx.engine.load(LoadModel(name))
    job.outcome = f"{info.name} answers: {', '.join(details(info))}."


def details(info: ModelInfo) -> list[str]:
    """A model of a server's in a few words; what is not certain is said to be so."""
    server = info.server
    if server is None:
        return []
    context = f"context {info.context_length:,}"
    return [
        f"{server.kind} at {server.host}",
        context if server.tells_context else f"{context} (assumed; --ctx-size says otherwise)",
        *([] if server.counts_tokens else ["numbers of tokens are estimates"]),
    ]


async def listed_json(catalog: Catalog) -> dict[str, Any]:
    """What the server has, in the form of `models_json`. Raises EngineError."""
    models = [model for model in await catalog.models() if not model.parent]
    told = f"Served by {catalog.host}." if models else f"{catalog.host} serves no model."
    rows = [
        {"name": model.name, "size": "", "problem": "", "kind": _context(model), "fits": None}
        for model in models
    ]
    return {"models": rows, "starter": "", "server": told}


async def card_json(ctx: AppContext, catalog: Catalog, name: str) -> dict[str, Any]:
    """A model of the server, and nothing to set. Raises ModelNotFoundError and EngineError."""
    served = {model.name: model for model in await catalog.models() if not model.parent}
    if name not in served:
        raise ModelNotFoundError(f"{catalog.host} does not serve {name}.", "Refresh the list.")
    model, info = served[name], ctx.engine.state.info
    loaded = info if info is not None and info.name == name else None
    rows = [
        ("Server", catalog.host),
        ("Kind", loaded.server.kind if loaded and loaded.server else ""),
        ("Context", _context(model)),
        ("From", model.path),
    ]
    card = {"name": name, "kind": "", "size": 0, "files": [], "problem": "", "remedy": ""}
    return {
        "card": card | {"rows": [row for row in rows if row[1]], "server": catalog.host},
        "controls": [],
        "options": {},
        "saved": False,
        "plan": {"fits": True},
        "template": await served_template_json(ctx, name),
    }


def _context(model: ServedModel) -> str:
    return f"{model.context_length:,} tokens" if model.context_length else ""


async def served_template_json(ctx: AppContext, name: str) -> dict[str, Any]:
    """How chats become prompts: by the server, or by a template that was chosen here.

    Raises SettingsError.
    """
    chosen = await asyncio.to_thread(ctx.templates.chosen, name)
    if chosen:
        reason, origin = "Chosen by hand: Lantern writes the whole prompt.", LIBRARY[chosen].origin
        check = ["It cannot be checked: the model's tokenizer is at the server."]
    else:
        reason, origin = "The server gets the messages, and applies the model's own.", ""
        check = ["Whether it fits the model is up to the server."]
    choices = [(one.key, one.label) for one in LIBRARY.values()]
    return {
        "chosen": chosen,
        "choices": [("", "Automatic: the server's own"), *choices],
        "reason": reason,
        "origin": origin,
        "check": check,
    }


async def served_adapters_json(catalog: Catalog) -> dict[str, Any]:
    """The LoRAs that the server has, in the form of `adapters_json`. Raises EngineError."""
    rows = [
        {
            "name": model.name,
            "kind": "",
            "rank": 0,
            "targets": [],
            "base": model.parent,
            "warning": "",
            "problem": "",
        }
        for model in await catalog.models()
        if model.parent
    ]
    return {"folder": "", "adapters": rows, "server": catalog.host}
