"""Keep a reply from ending before it has so many tokens, or so many lines.

With `ban_newlines` it also stays on one line until then, which is what keeps it going in the
mode `chat`, where a new line mostly begins what the next one says.
"""

from __future__ import annotations

from typing import Any

from modules.extensions.webui import shared

params: dict[str, Any] = {
    "display_name": "Long replies",
    "is_tab": False,
    "min_length": 120,
    "min_lines": 0,
    "ban_newlines": False,
}


class LongEnough:
    """Takes the chance from tokens that end a reply, while it is too short."""

    def __init__(self, prompt_tokens: int) -> None:
        tokenizer = shared.tokenizer
        self._start = prompt_tokens
        self._ends = list(tokenizer.all_special_ids)
        # A line break in the spelling of byte-level tokenizers, of SentencePiece, and as it is.
        marks = ("\u010a", "<0x0A>", "\n")
        vocabulary = tokenizer.get_vocab().items()
        self._newlines = [i for text, i in vocabulary if any(mark in text for mark in marks)]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [1, vocab] after the tokens [1, n] so far."""
        written = input_ids[0, self._start :].tolist()
        short = len(written) < params["min_length"]
        newlines = set(self._newlines)
        few = sum(token in newlines for token in written) < params["min_lines"]
        if short or few:
            scores[:, self._ends] = float("-inf")
        if short and params["ban_newlines"]:
            scores[:, self._newlines] = float("-inf")
        return scores


def logits_processor_modifier(processor_list: list[Any], input_ids: Any) -> list[Any]:
    """The processors of a reply, and this one."""
    processor_list.append(LongEnough(input_ids.shape[-1]))
    return processor_list


def ui() -> None:
    """Two sliders and a switch."""
    import gradio as gr

    length = gr.Slider(0, 800, params["min_length"], step=10, label="Tokens before a reply may end")
    lines = gr.Slider(0, 40, params["min_lines"], step=1, label="Line breaks before it may end")
    one_line = gr.Checkbox(params["ban_newlines"], label="No line break before that many tokens")
    length.change(lambda value: params.update(min_length=int(value)), length, None)
    lines.change(lambda value: params.update(min_lines=int(value)), lines, None)
    one_line.change(lambda on: params.update(ban_newlines=on), one_line, None)
