"""Tools in single files: what is read of them, and how they run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from modules.chat.tools.functions import Functions, read_function
from modules.chat.tools.toolbox import Answer
from modules.errors import InvalidInputError
from tests.chat.tools.helpers import SHIPPED, function

pytestmark = pytest.mark.anyio

posix = pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")


async def run(folder: Path, body: str, seconds: float = 20, **arguments: Any) -> Answer:
    function(folder, "probe", body)
    functions = Functions([folder], seconds)
    return await functions.call(functions.read()["probe"], arguments)


async def shipped(name: str, **arguments: Any) -> Answer:
    functions = Functions([SHIPPED])
    return await functions.call(functions.read()[name], arguments)


# -- what runs ----------------------------------------------------------------------------


async def test_a_function_gets_its_arguments_and_its_result_is_text(tmp_path: Path) -> None:
    assert await run(tmp_path, "return f'n is {arguments[\"n\"]}'", n=3) == Answer("n is 3")
    assert await run(tmp_path, "return {'é': [1, None]}") == Answer('{"é": [1, null]}')


async def test_what_it_prints_is_no_part_of_its_answer(tmp_path: Path) -> None:
    body = "print('{}'); import os; os.write(1, b'{}'); return 'clean'"
    assert await run(tmp_path, body) == Answer("clean")


async def test_it_runs_in_a_process_and_a_folder_of_its_own(tmp_path: Path) -> None:
    answer = await run(tmp_path, "import os; return f'{os.getpid()} {os.getcwd()}'")
    pid, _, folder = answer.text.partition(" ")
    assert int(pid) != os.getpid() and Path(folder) != Path.cwd()
    assert not Path(folder).exists()  # it is gone afterwards


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero (line 7 of probe.py)"),
        ("raise SystemExit(3)", "SystemExit: 3 (line 7 of probe.py)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt (line 7 of probe.py)"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
async def test_what_it_raises_is_the_answer(tmp_path: Path, body: str, told: str) -> None:
    answer = await run(tmp_path, body)
    assert answer.failed and answer.text.startswith(told)


async def test_a_function_that_never_ends_is_ended_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "child"
    body = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    answer = await run(tmp_path, body, seconds=3)
    assert answer == Answer("It did not end within 3 seconds.", failed=True)
    if os.name == "posix":
        assert await ended(int(note.read_text()))


async def ended(pid: int) -> bool:
    """Whether a process is gone, or about to be."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except OSError:
            return True
        await asyncio.sleep(0.05)
    return False


@posix
async def test_more_memory_than_a_tool_may_have_is_refused(tmp_path: Path) -> None:
    answer = await run(tmp_path, "return len(bytearray(8 * 1024 ** 3))")
    assert answer.failed and answer.text.startswith("MemoryError")


@posix
async def test_a_crash_is_told(tmp_path: Path) -> None:
    answer = await run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert answer.failed and "crashed" in answer.text


async def test_a_giant_answer_is_cut(tmp_path: Path) -> None:
    answer = await run(tmp_path, "return 'x' * 50_000_000")
    assert len(answer.text) < 21_000 and "of 50,000,000 characters" in answer.text


@posix
async def test_a_flood_on_the_way_back_is_no_answer(tmp_path: Path) -> None:
    body = (
        "import os\n"
        "while True:\n"
        "    for fd in range(3, 20):\n"
        "        try: os.write(fd, b'x' * 65536)\n"
        "        except OSError: pass"
    )
    assert (await run(tmp_path, body)).failed


async def test_stopping_ends_the_process(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    body = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    task = asyncio.create_task(run(tmp_path, body))
    while not (note.exists() and note.read_text()):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ended(int(note.read_text()))


# -- what a file says of itself -----------------------------------------------------------


def test_a_file_is_read_without_running_it(tmp_path: Path) -> None:
    path = function(tmp_path, "probe")
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{path.read_text()}")
    assert read_function(path).tool.name == "probe"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def execute(:", "invalid syntax in line 1"),
        ("tool = {}", "no execute"),
        ("def execute(a): pass", "no tool"),
        ("tool = make()\ndef execute(a): pass", "no plain dict"),
        ("tool = 3\ndef execute(a): pass", "no plain dict"),
        ("tool = {}\ndef execute(a): pass", 'no "function"'),
        ("tool = {'function': {'name': '../x'}}\ndef execute(a): pass", "no name of a tool"),
        ("tool = {'function': {'name': 'x', 'parameters': {'type': 'string'}}}\n"
         "def execute(a): pass", "no object"),
        ("tool = {'function': {'name': 'x', 'description': '" + "y" * 30_000 + "'}}\n"
         "def execute(a): pass", "more than 20,000"),
        ("\0", ""),
        ("(" * 9000, ""),
    ],
)  # fmt: skip
def test_what_is_no_tool_is_named_and_the_others_stay(tmp_path: Path, text: str, told: str) -> None:
    function(tmp_path, "good")
    (tmp_path / "bad.py").write_text(text)
    functions = Functions([tmp_path])
    assert list(functions.read()) == ["good"]
    (problem,) = functions.problems
    assert problem.startswith("bad.py: ") and told in problem


def test_a_users_function_comes_before_one_of_the_same_name(tmp_path: Path) -> None:
    function(tmp_path / "brought", "probe")
    own = function(tmp_path / "own", "probe")
    functions = Functions([tmp_path / "own", tmp_path / "brought", tmp_path / "missing"])
    assert functions.read()["probe"].path == own


def test_a_changed_file_is_read_anew_and_has_another_mark(tmp_path: Path) -> None:
    path = function(tmp_path, "probe")
    functions = Functions([tmp_path])
    before = functions.read()["probe"].mark
    assert functions.read()["probe"].mark == before
    path.write_text(path.read_text() + "# more\n")
    assert functions.read()["probe"].mark != before


def test_an_unreadable_file_raises(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        read_function(tmp_path / "none.py")


# -- the functions that come with Lantern --------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [("17 * (3 + 4)", "119"), ("2^10", "1024"), ("-7 // 2", "-4"), ("sqrt(2)", "1.414213"),
     ("max(1, 2, 3) % 2", "1"), ("factorial(5)", "120"), ("1e3 + pi", "1003.14159")],
)  # fmt: skip
async def test_calculate_computes(expression: str, value: str) -> None:
    answer = await shipped("calculate", expression=expression)
    assert answer.text.startswith(f"{expression} = {value}") and not answer.failed


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "__import__('os')", "().__class__", "x", "'a' * 9", "[1]", "(-1) ** 0.5",
     "10**300*10**300", "1/0", "factorial(10**9)", "max(1, key=abs)", "True"],
)  # fmt: skip
async def test_calculate_computes_nothing_else(expression: str) -> None:
    answer = await shipped("calculate", expression=expression)
    assert answer.failed and "line" in answer.text  # by itself, and not by a limit


async def test_the_other_functions_answer() -> None:
    assert "(week " in (await shipped("current_time")).text
    assert (await shipped("current_time", time_zone="Nowhere/Here")).failed
    rolled = await shipped("roll_dice", count=3, sides=6)
    assert rolled.text.startswith('{"rolls": [') and not rolled.failed
    assert (await shipped("convert_units", value=26.2, from_unit="mi", to_unit="km")).text == (
        "26.2 mi = 42.1648128 km"
    )
    fahrenheit = await shipped("convert_units", value=100, from_unit="C", to_unit="F")
    assert fahrenheit.text == "100 C = 212 F"
    assert (await shipped("convert_units", value=1, from_unit="kg", to_unit="m")).failed
    counted = await shipped("count_text", text="strawberry", find="R")
    assert "\"occurrences of 'R'\": 3" in counted.text
