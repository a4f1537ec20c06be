"""`Guidance`: away from what another prompt would say (classifier-free guidance)."""

from __future__ import annotations

from torch import Tensor

from modules.engine.worker.decoding.method import Drawn, Method
from modules.engine.worker.runner import Runner
from modules.engine.worker.sequence import Sequence, Track
from modules.errors import PromptTooLongError

__all__ = ["Guidance"]


class Guidance(Method):
    """Draws from s · (p - n) + n, the log-probabilities p and n after two beginnings.

    p follows the prompt and n the negative prompt, each with the reply; s is the scale. What
    no negative prompt means is taken from transformers: the last token of the prompt alone.
    Source: https://arxiv.org/abs/2306.17806
    """

    def __init__(
        self, seq: Sequence, runner: Runner, negative_ids: list[int], context: int
    ) -> None:
        """`context` tokens are the most for each of the two. Raises PromptTooLongError."""
        super().__init__(seq, runner)
        ids = negative_ids or seq.token_ids[-1:]
        room = context - len(ids)
        if room < 1:
            raise PromptTooLongError(
                f"The negative prompt has {len(ids):,} tokens, and the context holds {context:,}.",
                "Shorten it.",
            )
        seq.max_tokens = min(seq.max_tokens, len(seq.token_ids) + room)
        self._negative = Track(
            id=f"{seq.id}/negative",
            token_ids=ids,
            max_tokens=len(ids) + seq.max_tokens - len(seq.token_ids),
            mix=seq.mix,
        )
        self._positive_logits: Tensor | None = None
        self._negative_logits: Tensor | None = None

    def start(self) -> int:
        """Make room for both."""
        self.runner.start(self._negative)
        return super().start()

    def prefill(self, count: int) -> Tensor | None:
        """The prompt's chunks, and then those of the negative prompt."""
        if self._positive_logits is None:
            self._positive_logits = super().prefill(count)
            return None
        self._negative_logits = self.runner.prefill(self._negative, count)
        return None if self._negative_logits is None else self._positive_logits

    def alone(self) -> bool:
        """Always: there are two tokens to compute."""
        return True

    def step(self) -> list[Drawn]:
        """One token."""
        self._negative.token_ids.append(self.seq.token_ids[-1])
        logits, self._negative_logits = self.computed([self.seq, self._negative])
        return self.draw(logits)

    def draw(self, logits: Tensor) -> list[Drawn]:
        """One token."""
        assert self._negative_logits is not None
        scale = self.seq.sampler.params.guidance_scale
        positive, negative = logits.log_softmax(-1), self._negative_logits.log_softmax(-1)
        guided = scale * (positive - negative) + negative
        return [self.drawn(self.seq.sampler.sample(guided, self.seq.token_ids), logits)]

    def release(self) -> None:
        """Give up both."""
        super().release()
        self.runner.release(self._negative)
