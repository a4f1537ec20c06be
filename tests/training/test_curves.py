"""Curves and control lines."""

from __future__ import annotations

import pytest

from modules.training.curves import History, Smoother
from modules.training.events import Evaluated
from tests.training.fake_run import step


def history(losses: list[float]) -> History:
    found = History()
    for number, loss in enumerate(losses, 1):
        found.add(step(number, loss))
    return found


def test_a_constant_loss_is_smooth_from_the_first_step() -> None:
    assert list(history([2.0] * 5).smoothed) == pytest.approx([2.0] * 5)


def test_long_curves_are_thinned_out_and_keep_their_spikes_and_their_end() -> None:
    losses = [1.0] * 5000
    losses[1234] = 9.0
    curves = history(losses).curves(600)
    assert len(curves.steps) <= 600
    assert (1235, 9.0) in zip(curves.steps, curves.loss, strict=True)
    assert curves.steps[-1] == 5000
    assert curves.steps == sorted(set(curves.steps))


def test_short_curves_are_whole() -> None:
    assert history([3.0, 2.0, 1.0]).curves(600).loss == [3.0, 2.0, 1.0]


def test_a_step_that_is_told_again_takes_the_place_of_the_earlier_one() -> None:
    found = history([3.0, 2.0, 1.0])
    found.evaluate(Evaluated(step=3, loss=0.5))
    found.add(step(2, 2.5))
    assert list(found.loss) == [3.0, 2.5]
    assert found.evaluated == []
    expected = Smoother()
    expected.add(3.0)
    assert found.smoothed[-1] == expected.add(2.5)


def test_a_run_without_steps_has_no_speed() -> None:
    assert History().speed() == (0.0, 0.0)
