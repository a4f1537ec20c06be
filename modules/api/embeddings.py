"""`/v1/embeddings`: vectors of texts, of the model that is loaded.

They are the mean of its last states, which tells texts apart, but less well than models that
were trained for it.
"""

from __future__ import annotations

import base64
import struct
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from modules.api.documented import takes
from modules.api.errors import ApiError, json_response
from modules.api.requests import body_of
from modules.api.service import Api
from modules.api.streaming import while_connected
from modules.chat.prompt import loaded_model
from modules.engine.client import EngineClient
from modules.engine.protocol import Embedded

__all__ = ["EmbeddingsBody", "add_embeddings"]

_MOST_TEXTS = 256


class EmbeddingsBody(BaseModel):
    """`POST /v1/embeddings`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=500)
    input: list[str] = Field(min_length=1, max_length=_MOST_TEXTS)
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=2**20)
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
            raise PydanticCustomError("unsupported", "Token ids are not supported; send text.")
        return [value] if isinstance(value, str) else value


def add_embeddings(router: APIRouter, api: Api) -> None:
    """The route."""

    @router.post("/embeddings", summary="Vectors of texts.", openapi_extra=takes(EmbeddingsBody))
    async def embeddings(request: Request) -> Response:
        body = await body_of(request, EmbeddingsBody)
        model = loaded_model(api.engine).name
        found = await while_connected(request.receive, _embedded(api.engine, body))
        tokens = sum(one.tokens for one in found)
        data = [
            {"object": "embedding", "index": index, "embedding": _written(one, body)}
            for index, one in enumerate(found)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "model": model, "data": data, "usage": usage})


async def _embedded(engine: EngineClient, body: EmbeddingsBody) -> list[Embedded]:
    """One after the other: each is a forward, and replies go on between them."""
    found: list[Embedded] = []
    for place, text in enumerate(body.input):
        if not text:
            raise ApiError("The text is empty.", param=f"input[{place}]", code="invalid_value")
        found.append(await engine.embed(text))
        width = len(found[-1].vector)
        if body.dimensions not in (None, width):
            raise ApiError(
                f"This model's vectors have {width} dimensions; leave dimensions out.",
                param="dimensions",
                code="invalid_value",
            )
    return found


def _written(one: Embedded, body: EmbeddingsBody) -> list[float] | str:
    if body.encoding_format != "base64":
        return list(one.vector)
    return base64.b64encode(struct.pack(f"<{len(one.vector)}f", *one.vector)).decode()
