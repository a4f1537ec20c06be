"""Who has the page open."""

from __future__ import annotations

import pytest

from modules.access import HERE, OWNER, Caller
from modules.visitors import Visitors


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def visitors(clock: list[float]) -> Visitors:
    return Visitors(lambda: clock[0])


def guest(name: str) -> Caller:
    return Caller(f"guest-{name}", admin=False)


def test_everybody_is_told_by_what_they_are(visitors: Visitors) -> None:
    ann = Caller("login-ann", admin=False, name="ann")
    with (
        visitors.visit(HERE),
        visitors.visit(OWNER),
        visitors.visit(ann),
        visitors.visit(guest("a")),
    ):
        found = [(one.kind, one.name, one.number) for one in visitors.present()]
    assert found == [("here", "", 0), ("owner", "", 0), ("login", "ann", 0), ("guest", "", 1)]


def test_guests_are_numbered_and_their_tabs_counted(visitors: Visitors) -> None:
    with visitors.visit(guest("a")), visitors.visit(guest("b")), visitors.visit(guest("b")):
        assert [(one.number, one.tabs) for one in visitors.present()] == [(1, 1), (2, 2)]
    assert visitors.present() == []


def test_a_tab_that_was_hidden_for_a_moment_was_there_all_along(
    visitors: Visitors, clock: list[float]
) -> None:
    with visitors.visit(guest("a")):
        pass
    clock[0] += 300
    with visitors.visit(guest("a")):
        assert visitors.present()[0].since == 1000
    clock[0] += 3_600
    with visitors.visit(guest("a")):
        assert visitors.present()[0].since == clock[0]


def test_a_thousand_guests_are_not_remembered_for_ever(visitors: Visitors) -> None:
    with visitors.visit(guest("there")):
        for i in range(1_100):
            with visitors.visit(guest(str(i))):
                pass
        assert [one.number for one in visitors.present()] == [1]
        assert len(visitors._known) <= 1_001
