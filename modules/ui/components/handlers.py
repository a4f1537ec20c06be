"""What gradio's event handlers share: who is calling, and how an error is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from modules.access import caller_of
from modules.chat.drafts import Draft, DraftKind
from modules.context import AppContext
from modules.errors import LanternError

__all__ = ["keep_draft", "listen", "sentence", "user_of"]


def user_of(request: gr.Request) -> str:
    """Whose texts this event is about."""
    assert request.request is not None, "every event of a page comes with its HTTP request"
    return caller_of(request.request.scope).user


async def keep_draft(ctx: AppContext, user: str, kind: DraftKind, draft: Draft) -> None:
    """Save what stands in a mode; a full disk is said, and stops nothing."""
    try:
        await asyncio.to_thread(ctx.drafts.save, user, kind, draft)
    except LanternError as error:
        gr.Warning(str(error))


@contextmanager
def sentence() -> Iterator[None]:
    """Turn a `LanternError` into a notice in the page."""
    try:
        yield
    except LanternError as error:
        raise gr.Error(str(error), print_exception=False) from error


def listen(event: Callable[..., Any], handler: Callable[..., Any], given: Any, shown: Any) -> None:
    """Bind `handler` to a gradio event, off gradio's own API and without its spinner."""
    event(handler, given, shown, api_visibility="private", show_progress="hidden")
