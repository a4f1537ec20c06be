"""`Detokenizer`: token ids in, text that may be shown out."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from transformers import PreTrainedTokenizerBase

__all__ = ["Detokenizer"]

# Tokens of the prompt that are decoded together with the reply, so that a tokenizer which
# drops the space at the beginning of a text keeps it in a continuation.
_OVERLAP = 6

# A character has at most four bytes; a tail that is not UTF-8 after this many tokens never
# will be, and is shown as it is.
_LONGEST_TAIL = 16

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one growing reply.

    Two things are held back: bytes that do not make a whole character yet (the prefix
    offset method of text-generation-inference), and text that may be the beginning of a
    stop string. `stopped` turns true when a stop string is complete; the text ends before
    it, and nothing follows.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], stop: Sequence[str]
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids[-_OVERLAP:])
        self._read = len(self._ids)
        self._seen = self._decode(self._ids)
        self._stop = tuple(stop)
        self._held = ""

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often empty."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        whole = not text.endswith(_REPLACEMENT) or len(self._ids) - self._read > _LONGEST_TAIL
        if not whole or len(text) <= len(self._seen):
            return ""
        new = text[len(self._seen) :]
        # The next text is decoded from the tokens of this one onwards.
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        self._seen = self._decode(self._ids)
        return self._past_stop_strings(new)

    def copy(self) -> Detokenizer:
        """One that goes on by itself from here."""
        twin = copy(self)
        twin._ids = list(self._ids)
        return twin

    def flush(self) -> str:
        """What was held back, when no further token comes; half a character is dropped."""
        rest = self._decode(self._ids)[len(self._seen) :].rstrip(_REPLACEMENT)
        text = self._past_stop_strings(rest) + self._held
        self._ids, self._read, self._seen, self._held = [], 0, "", ""
        return text

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _past_stop_strings(self, new: str) -> str:
        if self.stopped:
            return ""
        text, self._held = self._held + new, ""
        ends = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return text[: min(ends)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        cut = len(text) - held
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
