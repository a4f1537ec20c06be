"""How many processes a run becomes."""

from __future__ import annotations

import sys

import pytest

from modules.loader.machine import Card, Machine
from modules.training import run
from tests.training.trainer.runs import Place


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What this process would become, on a machine with three cards."""
    cards = tuple(Card(i, "a card", 80 * 2**30, 80 * 2**30) for i in range(3))
    monkeypatch.setattr(run, "this_machine", lambda folder: Machine(cards, 0, 0, 0))
    became: list[list[str]] = []

    def become(program: str, argv: list[str]) -> None:
        assert program == sys.executable
        became.append(argv)

    monkeypatch.setattr(run.os, "execv", become)
    return became


@pytest.mark.parametrize(("processes", "count"), [(0, "3"), (2, "2"), (16, "3")])
def test_a_run_is_launched_on_all_cards_or_as_many_as_asked_for(
    place: Place, commands: list[list[str]], processes: int, count: str
) -> None:
    place.run(processes=processes, max_steps=1)
    (command,) = commands
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    assert command[command.index("--num_processes") + 1] == count
    assert str(place.folder() / "config.yaml") in command


def test_one_card_needs_no_launcher(place: Place, commands: list[list[str]]) -> None:
    place.run(processes=1, max_steps=1)
    assert not commands


def test_a_launched_process_launches_no_other(
    place: Place, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    place.run(max_steps=1)
    assert not commands
