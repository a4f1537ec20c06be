"""`Contrastive`: likely tokens that do not say again what is said (contrastive search)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from modules.engine.worker.decoding.method import Drawn, Method
from modules.engine.worker.runner import Runner
from modules.engine.worker.sampler import require_finite
from modules.engine.worker.sequence import Sequence

__all__ = ["Contrastive"]


class Contrastive(Method):
    """Takes, of the k likeliest tokens v, the one with the highest (1 - a) · p(v) - a · s(v).

    s is the greatest cosine similarity of the last layer's state at v, as if v were next, to
    that at any earlier token; a is `penalty_alpha`, and k is `top_k`. Nothing is left to
    chance. A token that is ruled out, p = 0, is no candidate. Source: https://arxiv.org/abs/2202.06417
    """

    def __init__(self, seq: Sequence, runner: Runner) -> None:
        super().__init__(seq, runner)
        self._states: list[Tensor] = []
        seq.hidden = self._states
        self._known: Tensor | None = None
        """The states at all tokens so far, [tokens, width], each of length 1."""
        self._logits: Tensor | None = None

    def alone(self) -> bool:
        """Always: the candidates are computed one after the other."""
        return True

    def step(self) -> list[Drawn]:
        """One token."""
        assert self._logits is not None
        return self.draw(self._logits)

    def draw(self, logits: Tensor) -> list[Drawn]:
        """One token; it is computed then, which is where the next logits come from."""
        known = self._taken()
        candidates = self._candidates(logits)
        alpha = self.seq.sampler.params.penalty_alpha
        best, chosen = -torch.inf, candidates[0][0]
        for token_id, probability in candidates:
            row, state = self._tried(token_id)
            similarity = float((known @ state).max())
            score = (1 - alpha) * probability - alpha * similarity
            if score > best:
                best, chosen = score, token_id
                self._logits, self._known = row, torch.cat([known, state[None]])
        if chosen != candidates[-1][0]:
            self._tried(chosen)
        return [self.drawn(chosen, logits)]

    def _taken(self) -> Tensor:
        """The states so far: those of the prompt have come in chunks."""
        if self._known is None:
            self._known = normalize(torch.cat(self._states), dim=-1)
            self._states.clear()
        return self._known

    def _candidates(self, logits: Tensor) -> list[tuple[int, float]]:
        """The likeliest tokens and their probabilities.

        The likeliest is the last: it is mostly the one, and need not be computed again then.
        """
        require_finite(logits)
        sampler = self.seq.sampler
        probabilities = sampler.process(logits, self.seq.token_ids).softmax(-1)
        top = probabilities.topk(min(sampler.params.top_k, len(probabilities)))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [(token_id, p) for token_id, p in pairs if p > 0][::-1]

    def _tried(self, token_id: int) -> tuple[Tensor, Tensor]:
        """The logits [vocab] after a token that may be the next, and the state at it [width]."""
        self.runner.rewind(self.seq, len(self.seq.token_ids))
        logits = self.runner.extend(self.seq, [token_id])[0]
        return logits, normalize(self._states.pop()[0], dim=-1)
