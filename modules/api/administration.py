"""Loading, unloading and applying over HTTP, as text-generation-webui has it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from modules.api.documented import takes
from modules.api.errors import ApiError, json_response
from modules.api.requests import body_of
from modules.api.service import Api, Library
from modules.engine.client import EngineState
from modules.jobs import Job
from modules.loader.adapters import find_adapter, list_adapters
from modules.loader.catalog import list_models
from modules.loader.options import LoadOptions, load_options
from modules.loader.saved_options import saved_options

__all__ = ["add_administration"]

Name = Annotated[str, Field(max_length=300)]

_SWITCHES: dict[str, dict[str, str]] = {
    "load_in_8bit": {"quantize": "8bit"},
    "load_in_4bit": {"quantize": "4bit"},
    "bf16": {"dtype": "bfloat16"},
    "cpu": {"device": "cpu"},
}
"""text-generation-webui's flags that say what one of LoadOptions has as a value."""
_RENAMED = {"ctx_size": "context_length"}


class LoadModelBody(BaseModel):
    """`args` are LoadOptions by name, or a flag of text-generation-webui's."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_name: Name
    args: dict[str, Any] | None = Field(None, max_length=40)


class AdaptersBody(BaseModel):
    """LoRAs to apply, or to remove."""

    model_config = ConfigDict(extra="forbid")

    lora_names: list[Name] = Field(min_length=1, max_length=64)


def add_administration(router: APIRouter, api: Api) -> None:
    """The routes that tell and change what is loaded. All but `info` are for administration."""
    _add_models(router, api)
    _add_adapters(router, api)


def _add_models(router: APIRouter, api: Api) -> None:
    @router.get("/internal/model/info", summary="What is loaded.")
    async def info(request: Request) -> Response:
        return json_response(_info(api.engine.state))

    @router.get("/internal/model/list", summary="What lies in models/.")
    async def listed(request: Request) -> Response:
        api.keys.require_admin(request)
        if (catalog := api.engine.catalog) is not None:
            names = [one.name for one in await catalog.models() if not one.parent]
            return json_response({"model_names": names})
        found = await asyncio.to_thread(list_models, api.library.settings.model_dir)
        return json_response({"model_names": [one.name for one in found if not one.problem]})

    @router.post(
        "/internal/model/load",
        summary="Load a model from models/, and answer when it is ready.",
        openapi_extra=takes(LoadModelBody),
    )
    async def load(request: Request) -> Response:
        api.keys.require_admin(request)
        body = await body_of(request, LoadModelBody)
        options = _options(api.library, body) if body.args else None
        await _ended(api.library.load(body.model_name, options))
        return json_response(_info(api.engine.state))

    @router.post("/internal/model/unload", summary="End the model, and give its memory back.")
    async def unload(request: Request) -> Response:
        api.keys.require_admin(request)
        await api.engine.unload()
        return json_response(_info(api.engine.state))


def _add_adapters(router: APIRouter, api: Api) -> None:
    folder = api.library.settings.lora_dir

    @router.get("/internal/lora/list", summary="What lies in loras/.")
    async def listed(request: Request) -> Response:
        api.keys.require_admin(request)
        if (catalog := api.engine.catalog) is not None:
            names = [one.name for one in await catalog.models() if one.parent]
            return json_response({"lora_names": names})
        found = await asyncio.to_thread(list_adapters, folder)
        return json_response({"lora_names": [one.name for one in found if not one.problem]})

    @router.post(
        "/internal/lora/load",
        summary="Lay LoRAs over the model, with weight 1.",
        openapi_extra=takes(AdaptersBody),
    )
    async def load(request: Request) -> Response:
        api.keys.require_admin(request)
        body = await body_of(request, AdaptersBody)
        # All are looked for before any is applied.
        here = api.engine.catalog is None
        paths = {
            name: str(find_adapter(folder, name)) if here else name for name in body.lora_names
        }
        for name, path in paths.items():
            await api.engine.load_adapter(name, path)
        return json_response(_info(api.engine.state))

    @router.post(
        "/internal/lora/unload",
        summary="Take LoRAs off the model; without a body, all of them.",
        openapi_extra=takes(AdaptersBody),
    )
    async def unload(request: Request) -> Response:
        api.keys.require_admin(request)
        applied = [adapter.info.name for adapter in api.engine.state.adapters]
        if _has_body(request):
            names = (await body_of(request, AdaptersBody)).lora_names
            for name in names:
                if name not in applied:
                    raise ApiError(f"The LoRA {name!r} is not applied.", 404, param="lora_names")
        else:
            names = applied
        for name in dict.fromkeys(names):
            await api.engine.unload_adapter(name)
        return json_response(_info(api.engine.state))


def _has_body(request: Request) -> bool:
    headers = request.headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _info(state: EngineState) -> dict[str, Any]:
    """text-generation-webui's two keys, and what else there is to know."""
    info = state.info if state.phase == "ready" else None
    found: dict[str, Any] = {
        "model_name": info.name if info else None,
        "lora_names": [a.info.name for a in state.adapters] if info else [],
        "state": state.phase,
    }
    if info is not None:
        kept = ("architecture", "parameters", "dtype", "quantization", "device", "memory")
        found |= {name: getattr(info, name) for name in (*kept, "context_length")}
    return found


def _options(library: Library, body: LoadModelBody) -> LoadOptions:
    """Those of the launch, changed by `args`. Raises ApiError and InvalidInputError."""
    known = {field.name for field in dataclasses.fields(LoadOptions)}
    changes: dict[str, Any] = {}
    for name, value in (body.args or {}).items():
        if name in _SWITCHES and isinstance(value, bool):
            changes |= _SWITCHES[name] if value else {}
        elif _RENAMED.get(name, name) in known:
            changes[_RENAMED.get(name, name)] = tuple(value) if isinstance(value, list) else value
        else:
            raise ApiError(
                f"Lantern does not know the load option {name[:60]!r}; there are "
                f"{', '.join(sorted(known))}.",
                param="args",
                code="unknown_parameter",
            )
    saved = saved_options(library.settings.models_yaml, body.model_name)
    try:
        return dataclasses.replace(load_options(library.settings, saved), **changes)
    except TypeError:  # a list or an object where a value belongs
        raise ApiError("A load option has no plain value.", param="args") from None


async def _ended(job: Job) -> None:
    """Wait for a load. Raises what it failed with."""
    await job.wait()
    if job.error is not None:
        raise job.error
    if job.state != "done":
        raise ApiError("The load was cancelled.", 409, code="cancelled")
