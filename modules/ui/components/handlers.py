"""What gradio's event handlers share: who is calling, and how an error is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from modules.access import caller_of
from modules.errors import LanternError

__all__ = ["listen", "sentence", "user_of"]


def user_of(request: gr.Request) -> str:
    """Whose texts this event is about."""
    assert request.request is not None, "every event of a page comes with its HTTP request"
    return caller_of(request.request.scope).user


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
