"""The end of the log: bounded, filtered, and gone from the loggers when it is closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from modules.log_tail import LogTail
from modules.redact import HIDDEN, Redactor


@pytest.fixture
def log() -> logging.Logger:
    logger = logging.getLogger("tests.tail")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


@pytest.fixture
def tail(log: logging.Logger) -> Iterator[LogTail]:
    tail = LogTail(Redactor(lambda: ["a-secret-word"]), kept=5)
    tail.follow([log.name])
    yield tail
    tail.close()


def texts(tail: LogTail, after: int = 0) -> list[str]:
    return [line.text for line in tail.lines(after)]


def test_the_last_lines_are_kept_and_the_others_forgotten(
    tail: LogTail, log: logging.Logger
) -> None:
    for i in range(8):
        log.info("line %d", i)
    assert texts(tail) == [f"line {i}" for i in range(3, 8)]
    assert [line.number for line in tail.lines(6)] == [7, 8]


def test_a_line_knows_its_level_and_its_source(tail: LogTail, log: logging.Logger) -> None:
    log.warning("look")
    (line,) = tail.lines()
    assert (line.level, line.source) == ("WARNING", "tests.tail")


def test_no_secret_is_kept(tail: LogTail, log: logging.Logger) -> None:
    log.info("it is %s, and token=%s", "a-secret-word", "anotherone")
    assert texts(tail) == [f"it is {HIDDEN}, and token={HIDDEN}"]


def test_a_traceback_is_kept_and_a_whole_prompt_is_cut(tail: LogTail, log: logging.Logger) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    log.info("x" * 100_000)
    first, second = texts(tail)
    assert "ValueError: no" in first
    assert len(second) == 4_000


def test_many_threads_lose_no_line(log: logging.Logger) -> None:
    tail = LogTail(Redactor(), kept=1_000)
    tail.follow([log.name])
    work = [threading.Thread(target=lambda: [log.info("x") for _ in range(100)]) for _ in range(8)]
    for one in work:
        one.start()
    for one in work:
        one.join()
    tail.close()
    assert [line.number for line in tail.lines()] == list(range(1, 801))


def test_a_closed_one_follows_nothing(tail: LogTail, log: logging.Logger) -> None:
    tail.close()
    log.info("late")
    assert texts(tail) == []
    assert tail not in log.handlers
