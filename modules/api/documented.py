"""What the OpenAPI document says of bodies, which the routes read by themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

__all__ = ["SCHEMAS", "takes"]

SCHEMAS = "#/components/schemas/{model}"


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """The part of a route's document that names its body."""
    schema = {"$ref": SCHEMAS.format(model=body.__name__)}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}
