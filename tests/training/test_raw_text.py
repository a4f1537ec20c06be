"""Long text becomes pieces that lose nothing, overlap as told, and end at lines where they may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modules.training.raw_text import Cutting, Piece, cut_text
from modules.training.tokenizer import FileTokenizer
from tests.training.bases import byte_level_base, llama_base

STORY = "".join(f"Line {i} of the story, which goes on.\n" for i in range(60))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    return FileTokenizer(byte_level_base(tmp_path_factory.mktemp("base")))


def learnt(tokenizer: FileTokenizer, pieces: list[Piece]) -> str:
    """What all pieces together learn."""
    shown = []
    for piece in pieces:
        names = tokenizer.pieces(piece.text, ([*piece.masked.ids], piece.offsets))
        shown += [name for name, flag in zip(names, piece.masked.learnt, strict=True) if flag]
    return "".join(shown)


@pytest.mark.parametrize("overlap", [0, 1, 8, 31, 4096])
@pytest.mark.parametrize("newline", [0, 40])
@pytest.mark.parametrize("length", [2, 16, 33, 10_000])
def test_every_token_is_learnt_exactly_once(
    tokenizer: FileTokenizer, overlap: int, newline: int, length: int
) -> None:
    pieces = list(cut_text(STORY, tokenizer, Cutting(length, overlap, newline)))
    assert learnt(tokenizer, pieces) == STORY
    assert all(len(piece.masked.ids) <= length for piece in pieces)


def test_a_piece_begins_with_what_the_one_before_it_ended_with(tokenizer: FileTokenizer) -> None:
    first, second, *_ = cut_text(STORY, tokenizer, Cutting(64, overlap=10))
    assert second.masked.ids[:10] == first.masked.ids[-10:]
    assert second.masked.learnt[:11] == (False,) * 10 + (True,)


def test_an_overlap_of_more_than_half_a_piece_is_cut_to_half_and_said(
    tokenizer: FileTokenizer,
) -> None:
    cutting = Cutting(32, overlap=128)
    first, second, *_ = cut_text(STORY, tokenizer, cutting)
    assert second.masked.ids[:16] == first.masked.ids[-16:] and second.masked.learnt[16]
    assert cutting.finding == ("Pieces of 32 tokens overlap by 16 instead of 128: by half at most.")
    assert not Cutting(32, overlap=16).finding


def test_pieces_end_and_begin_at_line_breaks_that_are_near(tokenizer: FileTokenizer) -> None:
    pieces = list(cut_text(STORY, tokenizer, Cutting(120, overlap=40, newline=80)))
    assert len(pieces) > 5
    assert all(piece.text.startswith("Line") and piece.text.endswith("\n") for piece in pieces)


def test_a_hard_cut_is_never_crossed_and_each_part_ends(tokenizer: FileTokenizer) -> None:
    text = "First part.###Second part.###  \n###Third"
    pieces = list(cut_text(text, tokenizer, Cutting(512, hard_cut="###", eos=tokenizer.eos)))
    assert [piece.text for piece in pieces] == ["First part.", "Second part.", "Third"]
    assert all(piece.masked.ids[-1] == tokenizer.eos for piece in pieces)
    assert all(piece.masked.learnt[-1] for piece in pieces)


def test_small_parts_are_left_out(tokenizer: FileTokenizer) -> None:
    cutting = Cutting(512, hard_cut="###", min_chars=8)
    assert [p.text for p in cut_text("tiny###large enough", tokenizer, cutting)] == ["large enough"]


def test_only_the_end_of_a_text_gets_the_end_token(tokenizer: FileTokenizer) -> None:
    pieces = list(cut_text(STORY, tokenizer, Cutting(100, 20, eos=tokenizer.eos)))
    assert [p.masked.ids.count(tokenizer.eos) for p in pieces] == [0] * (len(pieces) - 1) + [1]


@pytest.mark.parametrize("more", range(-2, 3))
def test_the_end_token_has_room_wherever_the_text_ends(tokenizer: FileTokenizer, more: int) -> None:
    count = len(tokenizer.encode(STORY)[0])
    cutting = Cutting(count // 2 + more, eos=tokenizer.eos)
    pieces = list(cut_text(STORY, tokenizer, cutting))
    assert learnt(tokenizer, pieces) == STORY + "<|im_end|>"
    assert max(len(piece.masked.ids) for piece in pieces) <= cutting.length


def test_each_piece_begins_with_the_beginning_token_which_is_not_learnt(tmp_path: Path) -> None:
    tokenizer = FileTokenizer(llama_base(tmp_path / "base"))
    assert tokenizer.bos is not None
    pieces = list(cut_text(STORY, tokenizer, Cutting(50, 5, bos=tokenizer.bos)))
    assert all(p.masked.ids[0] == tokenizer.bos and not p.masked.learnt[0] for p in pieces)
    assert max(len(piece.masked.ids) for piece in pieces) == 50


def test_text_longer_than_a_window_is_cut_as_if_it_were_one(
    tokenizer: FileTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutting = Cutting(64, 16, 30)
    whole = list(cut_text(STORY, tokenizer, cutting))
    monkeypatch.setattr("modules.training.raw_text._WINDOW", 100)
    windows = list(cut_text(STORY, tokenizer, cutting))
    assert [p.text for p in windows] == [p.text for p in whole]
    assert [p.masked for p in windows] == [p.masked for p in whole]


def test_a_text_without_line_breaks_is_cut_all_the_same(
    tokenizer: FileTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.training.raw_text._WINDOW", 50)
    text = STORY.replace("\n", " ")
    assert learnt(tokenizer, list(cut_text(text, tokenizer, Cutting(32, 4, 8)))) == text


def test_nothing_but_white_space_makes_no_piece(tokenizer: FileTokenizer) -> None:
    assert list(cut_text(" \n ", tokenizer, replace(Cutting(64), eos=tokenizer.eos))) == []
