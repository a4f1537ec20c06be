"""What the plan and the worker both have to know of the fast runner: whom it serves, in what
pieces, and how many tokens its cache on a card gets.
"""

from __future__ import annotations

from modules.loader.inspect import Inspection

__all__ = ["CHUNK", "FAMILY", "LADDER", "cache_tokens", "serves"]

FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Its models, by their `model_type`."""
CHUNK = 2048
"""Prompt tokens in one forward on a card, where nobody else waits for a token."""
LADDER = (1, 2, 4, 8, 16, 24, 32)
"""Rows of the steps that are captured as CUDA graphs at load."""
_CONTEXTS = 12
"""How often the whole context is in the cache at most, if nobody asks for more."""
_STEP = 256


def serves(inspection: Inspection, context: int) -> bool:
    """Whether the fast runner serves a checkpoint with such a context, as far as it says itself.

    The worker looks at the model too: a few have a rotary embedding or an activation that the
    runner does not know. Those are computed by transformers, without the cache of this plan.
    """
    window = inspection.window
    return inspection.model_type in FAMILY and (not window or window >= context)


def cache_tokens(context: int, room: int, asked: int) -> int:
    """Tokens to set memory aside for: the context at least, then `asked`, as far as there is room.

    `room` are the tokens that fit beside one context. Without a wish (0) it is up to eleven more
    contexts, for other chats at the same time and for what was said before, and half of the room
    stays free.
    """
    more = asked - context if asked else (_CONTEXTS - 1) * context
    fits = room if asked else room // 2
    return context + max(0, more if more <= fits else fits // _STEP * _STEP)
