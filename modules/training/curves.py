"""The curves of a run, as its events draw them: whole in memory, thinned out for the page."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from modules.training.events import Evaluated, Step

__all__ = ["SMOOTHING", "Curves", "History", "Smoother"]

SMOOTHING = 0.9
"""How much of the smoothed loss a step leaves as it was."""
_RECENT = 20
"""Steps that the speed is taken from."""


class Smoother:
    """An exponential moving average without the bias of its beginning (arxiv.org/abs/1412.6980).

    One for the page and for the run, so that a run stops at the loss that the page shows.
    `state` is what a resumed run goes on from.
    """

    def __init__(self, total: float = 0.0, weight: float = 0.0) -> None:
        self._sum = total
        self._weight = weight

    @property
    def state(self) -> tuple[float, float]:
        """What to make an equal one from."""
        return self._sum, self._weight

    def add(self, loss: float) -> float:
        """The smoothed loss with `loss` in it."""
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        return self._sum / self._weight


@dataclass(frozen=True, slots=True)
class Curves:
    """Columns of equal length, but for `evaluated`, which has its own steps."""

    steps: list[int]
    loss: list[float]
    smoothed: list[float]
    learning_rate: list[float]
    grad_norm: list[float]
    evaluated: list[tuple[int, float]]


class History:
    """Every step and evaluation of one run. A step that is told again takes the place of the
    earlier one, and of all that followed that.
    """

    def __init__(self) -> None:
        self.steps = array("q")
        self.loss, self.smoothed = array("d"), array("d")
        self.learning_rate, self.grad_norm = array("d"), array("d")
        self.tokens, self.seconds = array("d"), array("d")
        self.evaluated: list[tuple[int, float]] = []
        self._smoother = Smoother()

    def add(self, event: Step) -> None:
        """Note a step of the optimizer."""
        if self.steps and event.step <= self.steps[-1]:
            self.rewind(event.step - 1)
        self.steps.append(event.step)
        self.loss.append(event.loss)
        self.smoothed.append(self._smoother.add(event.loss))
        self.learning_rate.append(event.learning_rate)
        self.grad_norm.append(event.grad_norm)
        self.tokens.append(event.tokens)
        self.seconds.append(event.seconds)

    def evaluate(self, event: Evaluated) -> None:
        """Note an evaluation."""
        kept = [(step, loss) for step, loss in self.evaluated if step != event.step]
        self.evaluated = [*kept, (event.step, event.loss)]

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: a resumed run computes it again."""
        kept = len(self.steps)
        while kept and self.steps[kept - 1] > step:
            kept -= 1
        for column in self._columns():
            del column[kept:]
        self._smoother = Smoother()
        for loss in self.loss:
            self._smoother.add(loss)
        self.evaluated = [(at, loss) for at, loss in self.evaluated if at <= step]

    def _columns(self) -> tuple[array[int] | array[float], ...]:
        return (
            self.steps, self.loss, self.smoothed, self.learning_rate, self.grad_norm,
            self.tokens, self.seconds,
        )  # fmt: skip

    def speed(self) -> tuple[float, float]:
        """Real tokens a second, and seconds a step, over the last steps; 0 before the first."""
        seconds = sum(self.seconds[-_RECENT:])
        if seconds <= 0:
            return 0.0, 0.0
        return sum(self.tokens[-_RECENT:]) / seconds, seconds / len(self.seconds[-_RECENT:])

    def curves(self, points: int) -> Curves:
        """At most `points` steps: the lowest and the highest loss of each stretch of them, so
        that no spike is lost, and the last step in any case.
        """
        kept = self._thinned(points)
        return Curves(
            steps=[self.steps[i] for i in kept],
            loss=[self.loss[i] for i in kept],
            smoothed=[self.smoothed[i] for i in kept],
            learning_rate=[self.learning_rate[i] for i in kept],
            grad_norm=[self.grad_norm[i] for i in kept],
            evaluated=list(self.evaluated),
        )

    def _thinned(self, points: int) -> list[int]:
        count = len(self.steps)
        if count <= points:
            return list(range(count))
        stretches = max(1, (points - 1) // 2)
        kept = {count - 1}
        for number in range(stretches):
            part = range(number * count // stretches, (number + 1) * count // stretches)
            kept.add(min(part, key=self.loss.__getitem__))
            kept.add(max(part, key=self.loss.__getitem__))
        return sorted(kept)
