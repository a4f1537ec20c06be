"""What gradio's event handlers share: who is calling, and how an error is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from modules.access import caller_of
from modules.errors import LanternError

__all__ = ["sentence", "user_of"]


def user_of(request: gr.Request) -> str:
    """Whose texts this event is about."""
    return caller_of(request.request.scope).user


@contextmanager
def sentence() -> Iterator[None]:
    """Turn a `LanternError` into a notice in the page."""
    try:
        yield
    except LanternError as error:
        raise gr.Error(str(error), print_exception=False) from error
