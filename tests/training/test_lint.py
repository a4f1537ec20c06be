"""What is wrong with a dataset is counted and named by row."""

from __future__ import annotations

from modules.chat.messages import Message
from modules.training.examples import Example
from modules.training.lint import lint
from modules.training.rows import Problem


def example(row: int, question: str, answer: str = "A.") -> Example:
    place = f"a.json, row {row}"
    return Example(place, (Message("user", question), Message("assistant", answer)))


def test_a_clean_dataset_has_no_findings() -> None:
    found = lint([example(1, "One?"), example(2, "Two?")])
    assert (found.examples, found.findings) == (2, ())


def test_duplicates_are_named_with_the_row_they_repeat() -> None:
    found = lint([example(1, "One?"), example(2, "Two?"), example(3, " one?\n")])
    (finding,) = found.findings
    assert finding.rows == ["a.json, row 3 is the same as a.json, row 1."]


def test_one_question_with_two_answers_is_told_apart_from_a_duplicate() -> None:
    found = lint([example(1, "One?"), example(2, "One?", "B.")])
    assert (found.count("two answers"), found.count("duplicate")) == (1, 0)


def test_a_row_of_the_evaluation_set_that_is_trained_on_has_leaked() -> None:
    found = lint([example(1, "One?")], evaluation=[example(7, "One?"), example(8, "Eight?")])
    assert found.count("leaked") == 1
    assert "row 7" in found.findings[0].rows[0]


def test_rows_that_are_cut_are_counted_in_tokens() -> None:
    found = lint([example(1, "One?"), example(2, "Two?")], lengths=[10, 300], cutoff=256)
    assert found.findings[0].rows == ["a.json, row 2 has 300 tokens and loses 44."]


def test_problems_are_counted_by_kind_and_twenty_are_named() -> None:
    bad = [Problem("a.json", i, "empty reply", "The reply is empty.") for i in range(1, 31)]
    found = lint([], [*bad, Problem("b.json", 4, "role", "Message 1 is by 'x'.")])
    assert [(f.kind, f.count, len(f.rows)) for f in found.findings] == [
        ("empty reply", 30, 20),
        ("role", 1, 1),
    ]
    assert found.findings[0].rows[0] == "a.json, row 1: The reply is empty."
