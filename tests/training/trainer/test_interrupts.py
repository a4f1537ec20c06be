"""Ctrl+C as a wish to stop."""

from __future__ import annotations

import signal

import pytest

from modules.training.trainer import interrupts
from modules.training.trainer.interrupts import Interrupts


def test_a_signal_is_noted_and_nothing_is_cut_short() -> None:
    with Interrupts() as noted:
        assert not noted.stopped
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the same, handed on by a launcher
        assert noted.stopped


def test_a_later_ctrl_c_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_SAME_S", -1.0)
    with Interrupts():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_sigterm_is_handed_on_and_ctrl_c_is_not() -> None:
    handed: list[int] = []
    with Interrupts() as noted:
        noted.forward = handed.append
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert handed == [signal.SIGTERM]


def test_afterwards_signals_mean_what_they_meant() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        pass
    assert signal.getsignal(signal.SIGINT) is before
