"""What a run is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.errors import InvalidInputError
from modules.training.control import (
    CONTROL,
    ControlReader,
    Save,
    Stop,
    StopAtLoss,
    forget_commands,
    send,
)


def test_commands_arrive_once_and_in_order(tmp_path: Path) -> None:
    reader = ControlReader(tmp_path)
    assert reader.read() == []
    send(tmp_path, StopAtLoss(0.5))
    send(tmp_path, Save())
    assert reader.read() == [StopAtLoss(0.5), Save()]
    send(tmp_path, Stop())
    assert reader.read() == [Stop()]
    assert reader.read() == []


def test_a_damaged_line_is_left_out_and_an_unfinished_one_waits(tmp_path: Path) -> None:
    reader = ControlReader(tmp_path)
    (tmp_path / CONTROL).write_text(
        '{"do": "dance"}\n[]\n{"do": "stop at loss", "loss": NaN}\n{"do"'
    )
    assert reader.read() == []
    with (tmp_path / CONTROL).open("a") as file:
        file.write(': "stop"}\n')
    assert reader.read() == [Stop()]


def test_forgotten_commands_are_not_obeyed(tmp_path: Path) -> None:
    send(tmp_path, Stop())
    forget_commands(tmp_path)
    assert ControlReader(tmp_path).read() == []


@pytest.mark.parametrize("loss", [-1.0, float("nan"), float("inf")])
def test_an_impossible_loss_is_refused(loss: float) -> None:
    with pytest.raises(InvalidInputError):
        StopAtLoss(loss)
