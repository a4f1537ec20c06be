"""Events of a run, written by one process and read by others."""

from __future__ import annotations

from pathlib import Path

from modules.training.events import EventLog, EventReader, Failed, Stage, Step, Warned


def _step(number: int) -> Step:
    return Step(
        step=number,
        epoch=0.5,
        loss=1.25,
        learning_rate=1e-4,
        grad_norm=0.3,
        tokens=10,
        seconds=0.1,
        time=7.0,
    )


def test_a_reader_gets_what_came_since_it_last_looked(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    reader = EventReader(tmp_path / "events.jsonl")
    log.write(_step(1))
    assert list(reader.read()) == [_step(1)]
    log.write(Warned(text="näher", time=1.0))
    log.write(_step(2))
    assert list(reader.read()) == [Warned(text="näher", time=1.0), _step(2)]
    assert list(reader.read()) == []


def test_there_is_nothing_to_read_before_the_file_is_there(tmp_path: Path) -> None:
    assert list(EventReader(tmp_path / "events.jsonl").read()) == []


def test_an_unfinished_line_waits_until_it_is_finished(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    log = EventLog(file)
    log.write(Stage(text="Loading", time=1.0))
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    reader = EventReader(file)
    assert list(reader.read()) == []
    file.write_bytes(whole)
    assert list(reader.read()) == [Stage(text="Loading", time=1.0)]


def test_a_line_that_a_killed_run_left_unfinished_costs_itself_alone(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    EventLog(file).write(_step(1))
    with file.open("ab") as end:
        end.write(b'{"event": "step", "st')
    EventLog(file).write(_step(2))
    assert list(EventReader(file).read()) == [_step(1), _step(2)]


def test_events_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"event": "dreamt"}\n[]\n{"event": "failed", "message": "m", "time": 1.0}\n')
    assert list(EventReader(file).read()) == [Failed(message="m", time=1.0)]
