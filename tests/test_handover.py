"""What a server that starts itself anew tells the next one."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from modules.accounts import Accounts
from modules.handover import Handover, LoadedModel, fingerprint, start_anew, take
from modules.settings import Settings
from modules.ui.web import make_access

LOADED = LoadedModel("/models/x", {"dtype": "float32"}, (("poet", "/loras/poet", 0.5),))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be executed in the place of this program."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "server.py", "--listen"])
    return calls


def test_the_next_server_is_told_everything_and_only_once(begun: list[tuple[Any, ...]]) -> None:
    told = Handover(port=7861, token="t", accounts={"key": "00"}, chosen="x", loaded=LOADED)
    environment: dict[str, str] = {}
    start_anew(told, environment)
    ((program, argv, passed),) = begun
    assert (program, argv[1:]) == (sys.executable, ["-u", "server.py", "--listen"])
    assert take(passed) == told
    assert take(passed) is None


def test_no_token_stands_in_the_environment(begun: list[tuple[Any, ...]]) -> None:
    start_anew(Handover(token="very-secret-token"), {})
    assert "very-secret-token" not in str(begun)
    assert take(begun[0][2]) == Handover(token="very-secret-token")


def test_a_handover_of_many_sessions_arrives(begun: list[tuple[Any, ...]]) -> None:
    accounts = {"sessions": {f"{i:064d}": "ann" for i in range(10_000)}}
    start_anew(Handover(accounts=accounts), {})
    taken = take(begun[0][2])
    assert taken is not None
    assert taken.accounts == accounts


def test_a_program_that_cannot_be_started_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(8, "Exec format error")

    monkeypatch.setattr(os, "execve", refused)
    start_anew(Handover(), {})
    assert "Start it again" in caplog.text


@pytest.mark.parametrize("variable", ["", "x", "-1", "99999"])
def test_what_is_no_handover_is_none(variable: str) -> None:
    assert take({"LANTERN_HANDOVER_FD": variable}) is None


def test_text_that_is_no_handover_is_none() -> None:
    for text in (b"", b"{}", b"[]", b'{"loaded": null, "strange": 1}'):
        end, begin = os.pipe()
        os.write(begin, text)
        os.close(begin)
        assert take({"LANTERN_HANDOVER_FD": str(end)}) is None


def test_the_fingerprint_tells_settings_apart_and_none_of_them() -> None:
    one, other = Settings(api_key="very-secret"), Settings(api_key="other")
    assert fingerprint(one) == fingerprint(Settings(api_key="very-secret")) != fingerprint(other)
    assert "secret" not in fingerprint(one)


# -- what stays good ----------------------------------------------------------------------


def test_links_stay_good(settings: Settings) -> None:
    told = Handover(token="guests", owner_token="mine")
    listening = Settings(listen=True, admin_remote=True)
    access = make_access(listening, told)
    assert (access.token, access.owner_token) == ("guests", "mine")
    assert make_access(Settings(listen=True), told).owner_token == ""
    assert make_access(settings, told).token == "", "nobody else is served any more"


def test_sessions_stay_good_while_their_password_does() -> None:
    before = Accounts.of({"ann": "one", "bob": "two"})
    ann, bob = before.begin_session("ann"), before.begin_session("bob")
    told = Handover(accounts=before.passed_on(), api_token="key")
    after = make_access(Settings(listen=True, gradio_auth="ann:one,bob:other"), told)
    assert (after.accounts.name_of(ann), after.accounts.name_of(bob)) == ("ann", "")
    assert after.api_token == "key"
