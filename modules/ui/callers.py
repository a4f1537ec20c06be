"""Who calls a route of the page, and the types that its routes share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from pydantic import Field

from modules.access import Caller, caller_of
from modules.errors import ForbiddenError

__all__ = ["Admin", "Here", "Id", "Who"]


def _caller(request: Request) -> Caller:
    return caller_of(request.scope)


def _admin(request: Request) -> Caller:
    caller = caller_of(request.scope)
    if not caller.admin:
        raise ForbiddenError(
            "Only the owner may change the model.", "Ask them, or do it on their machine."
        )
    return caller


def _here(request: Request) -> Caller:
    caller = caller_of(request.scope)
    if not caller.local:
        raise ForbiddenError(
            "Only the owner may do this, on the machine that Lantern runs on.",
            "Open the page there, by 127.0.0.1.",
        )
    return caller


Id = Annotated[int, Field(ge=1, le=2**53)]
Who = Annotated[Caller, Depends(_caller)]
"""Whoever was let in."""
Admin = Annotated[Caller, Depends(_admin)]
"""The owner; anybody else is refused with ForbiddenError."""
Here = Annotated[Caller, Depends(_here)]
"""The owner, at the machine that Lantern runs on; anybody else is refused with ForbiddenError."""
