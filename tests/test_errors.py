"""An error quotes what came from outside, whatever that was."""

from __future__ import annotations

from modules.errors import InvalidInputError


def test_half_an_emoji_that_is_quoted_can_be_sent() -> None:
    error = InvalidInputError("top_p cannot be \ud83e.", "Use a number, not \ud83e.")
    assert (error.message, error.remedy) == ("top_p cannot be ?.", "Use a number, not ?.")
    assert str(error).encode() == b"top_p cannot be ?. Use a number, not ?."
