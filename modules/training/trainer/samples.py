"""`Responder`: greedy answers of the model as it is now, to prompts that never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig

from modules.chat.messages import Message
from modules.training.templates import ChatFormat
from modules.training.tokenizer import FileTokenizer
from modules.training.trainer.objective import Objective

__all__ = ["Responder"]

_AT_ONCE = 16
"""Prompts that are answered together."""


class Responder:
    """Asks by a chat format; `decode` turns the ids of a reply into text."""

    def __init__(
        self,
        objective: Objective,
        tokenizer: FileTokenizer,
        chat: ChatFormat,
        decode: Callable[[list[int]], str],
        most_tokens: int,
    ) -> None:
        self._objective = objective
        self._tokenizer = tokenizer
        self._chat = chat
        self._decode = decode
        self._most = most_tokens

    def replies(self, prompts: Sequence[str]) -> list[str]:
        """What the model answers to each, without the end token.

        Prompts of like length are answered together, so that little is padded.
        """
        texts = [self._chat.ask([Message("user", prompt)]) for prompt in prompts]
        ids = [self._tokenizer.encode(text)[0] for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        replies = [""] * len(ids)
        for first in range(0, len(order), _AT_ONCE):
            places = order[first : first + _AT_ONCE]
            made = self._generate([ids[i] for i in places])
            for place, reply in zip(places, made, strict=True):
                replies[place] = self._text(reply)
        return replies

    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        ends = sorted(self._chat.ends)
        width = max(map(len, prompts))
        with self._objective.answering() as model:
            room = int(getattr(model.config, "max_position_embeddings", 2**20)) - width
            ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
            mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
            made = model.generate(  # type: ignore[operator]
                torch.tensor(ids, device=model.device),
                # Where all compute together, nobody ends before the others.
                synced_gpus=self._objective.sharded,
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                    do_sample=False,
                    use_cache=True,
                    max_new_tokens=max(1, min(self._most, room)),
                    eos_token_id=ends or None,
                    pad_token_id=ends[0] if ends else 0,
                    repetition_penalty=1.0,
                ),
            )
        replies: list[list[int]] = made[:, width:].tolist()
        return replies

    def _text(self, reply: list[int]) -> str:
        ends = self._chat.ends
        end = next((i for i, token in enumerate(reply) if token in ends), len(reply))
        return self._decode(reply[:end]).strip()
