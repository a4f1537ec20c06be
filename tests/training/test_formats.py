"""Format files: which entry a row takes, what of it is learnt, and what is wrong with either."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.errors import DatasetError
from modules.training.formats import FormatFile, Formatted, list_formats, read_format
from modules.training.rows import Problem, Row

SHIPPED = Path(__file__).parents[2] / "training" / "formats"
TWO = FormatFile("two", {"a,b": "Q: %a%\nA: %b%", "a,c,b": "Q: %a%\n%c%\nA: %b%"})


def row(**fields: object) -> Row:
    return Row("rows.json", 7, fields)


def learnt(made: Formatted | Problem) -> str:
    assert isinstance(made, Formatted)
    ((start, end),) = made.marked.learnt
    return made.marked.text[start:end]


def test_a_row_takes_the_entry_that_shows_most_of_it() -> None:
    made = TWO.apply(row(a="one", b="two", c="three", id=4))
    assert isinstance(made, Formatted)
    assert made.marked.text == "Q: one\nthree\nA: two"


@pytest.mark.parametrize("empty", ["", "  ", None, []])
def test_a_column_without_text_counts_as_absent(empty: object) -> None:
    made = TWO.apply(row(a="one", b="two", c=empty))
    assert isinstance(made, Formatted)
    assert made.marked.text == "Q: one\nA: two"


def test_the_last_column_is_learnt_with_all_that_follows_it() -> None:
    assert learnt(TWO.apply(row(a="one", b="two"))) == "two"
    tagged = FormatFile("tagged", {"a,b": "<q>%a%</q><a>%b%</a>"})
    assert learnt(tagged.apply(row(a="one", b="two"))) == "two</a>"


def test_a_text_that_looks_like_a_column_is_left_as_it_is() -> None:
    made = TWO.apply(row(a="%b% and %c%", b="%a%"))
    assert isinstance(made, Formatted)
    assert made.marked.text == "Q: %b% and %c%\nA: %a%"


@pytest.mark.parametrize(
    ("fields", "kind", "told"),
    [
        ({"a": "one"}, "column", "no column 'b'"),
        ({"a": "one", "b": " "}, "empty reply", "'b' is empty"),
        ({"a": "", "b": "two"}, "empty prompt", "'a' is empty"),
        ({}, "column", "no column 'a'"),
    ],
)
def test_a_row_that_fits_no_entry_is_told(fields: dict[str, str], kind: str, told: str) -> None:
    problem = TWO.apply(row(**fields))
    assert isinstance(problem, Problem)
    assert (problem.file, problem.number, problem.kind) == ("rows.json", 7, kind)
    assert told in problem.sentence


@pytest.mark.parametrize("name", ["alpaca", "alpaca-chatbot", "vicuna"])
def test_what_comes_with_lantern_takes_rows_in_alpacas_form(name: str) -> None:
    shipped = read_format(name, [SHIPPED])
    assert learnt(shipped.apply(row(instruction="Do.", input="", output="Done."))) == "Done."
    with_input = shipped.apply(row(instruction="Do.", input="This.", output="Done."))
    assert learnt(with_input) == "Done."
    assert isinstance(with_input, Formatted) and "This." in with_input.marked.text
    assert list_formats([SHIPPED]) == ["alpaca", "alpaca-chatbot", "vicuna"]


def test_a_format_of_ones_own_comes_before_that_of_lantern(tmp_path: Path) -> None:
    (tmp_path / "alpaca.json").write_text('{"output": "%output%"}')
    assert learnt(read_format("alpaca.json", [tmp_path, SHIPPED]).apply(row(output="a"))) == "a"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "empty"),
        ('{"a": 1}', "without text"),
        ('{"": "text"}', "without text"),
        ('{"a,b": "%a%"}', "does not show %b%"),
        ("[" * 100_000, "64 KB"),
        ("[" * 50_000, "no JSON"),
    ],
)
def test_a_damaged_format_is_told(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(DatasetError, match=told):
        read_format("mine", [tmp_path])


@pytest.mark.parametrize("name", ["none", "../../etc/passwd", "a/b", "\0"])
def test_a_format_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(DatasetError, match="format"):
        read_format(name, [SHIPPED])
