"""Whether the chat reads text as the tokens that a run learns from it.

The run reads a tokenizer's files by itself, as the page does; the chat reads them through
transformers, which may set up more than the files say.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from modules.training.masking import Masked
from modules.training.tokenizer import FileTokenizer

__all__ = ["difference"]

_ROWS, _TOKENS = 16, 512


def difference(ours: FileTokenizer, chat: PreTrainedTokenizerBase, rows: Sequence[Masked]) -> str:
    """What to warn of: a beginning of one of the first rows that they read in two ways, or ""."""
    for row in rows[:_ROWS]:
        text = str(chat.decode(list(row.ids[:_TOKENS]), clean_up_tokenization_spaces=False))
        if ours.encode(text)[0] != chat(text, add_special_tokens=False)["input_ids"]:
            return (
                f"The chat reads {text[:60]!r} as other tokens than this run does, so that it may "
                "not know what was learnt. Download the base's tokenizer files again."
            )
    return ""
