"""`Method`: how one request makes tokens of its logits; as it stands, by plain sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from modules.engine.protocol import TokenLogprob
from modules.engine.worker.runner import Runner
from modules.engine.worker.sequence import Sequence, Track

__all__ = ["Drawn", "Method"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next token of a reply, or what ends it, with what the request wants to know of it."""

    token_id: int
    logprobs: tuple[TokenLogprob, ...] = ()


class Method:
    """The seam between the scheduler, which gives turns, and a way of decoding.

    The order: `start`, `prefill` until it returns logits, and `draw` from these. Then, each
    turn, `draw` from logits that the scheduler had computed together with others', or, where
    `alone` says so, `step`. `release` comes at any time, once. Only the scheduler adds to
    the reply; where it ends within the tokens of a step, the rest is dropped.
    """

    def __init__(self, seq: Sequence, runner: Runner) -> None:
        self.seq = seq
        self.runner = runner

    def start(self) -> int:
        """Make room; returns how many tokens of the prompt are computed already."""
        return self.runner.start(self.seq)

    def prefill(self, count: int) -> Tensor | None:
        """Compute up to `count` tokens; the logits [vocab] after the prompt, once all are."""
        return self.runner.prefill(self.seq, count)

    def alone(self) -> bool:
        """Whether the next step is computed apart. Asked once before each."""
        return False

    def pauses(self) -> bool:
        """Whether the token that is under way has to be known before the next is computed."""
        return False

    def step(self) -> list[Drawn]:
        """The next tokens, perhaps none yet, computed apart."""
        raise NotImplementedError

    def draw(self, logits: Tensor) -> list[Drawn]:
        """The next tokens, from the logits [vocab] that follow the reply so far."""
        return [self.drawn(self.seq.sampler.sample(logits, self.seq.token_ids), logits)]

    def release(self) -> None:
        """Give up what the runner holds."""
        self.runner.release(self.seq)

    def drawn(self, token_id: int, logits: Tensor) -> Drawn:
        """A token that follows logits [vocab] of the model alone."""
        return Drawn(token_id, self.seq.logprobs(logits, token_id))

    def computed(self, tracks: list[Track]) -> Tensor:
        """The logits [len(tracks), vocab] after the last token of each.

        Raises what the forward of one of them raised.
        """
        rows = self.runner.decode(tracks)
        for track in tracks:
            if track.error is not None:
                raise track.error
        return rows
