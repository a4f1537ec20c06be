"""What is typed in the Default and Notebook modes is kept, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.chat.drafts import Draft, DraftStore
from modules.chat.store import ChatStore
from modules.errors import StorageError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChatStore]:
    store = ChatStore(tmp_path / "x.sqlite3")
    yield store
    store.close()


@pytest.fixture
def drafts(store: ChatStore) -> DraftStore:
    return DraftStore(store)


def save(drafts: DraftStore, *texts: str) -> None:
    for text in texts:
        drafts.save("owner", "notebook", Draft(text))


def test_there_is_an_empty_draft_at_first(drafts: DraftStore) -> None:
    assert drafts.latest("owner", "notebook") == Draft("", "")


def test_the_latest_draft_is_shown(drafts: DraftStore) -> None:
    save(drafts, "one", "two")
    assert drafts.latest("owner", "notebook") == Draft("two")


def test_undo_steps_back_to_the_beginning_and_stays_there(drafts: DraftStore) -> None:
    save(drafts, "one", "two", "three")
    steps = [drafts.undo("owner", "notebook").text for _ in range(5)]
    assert steps == ["two", "one", "", "", ""]


def test_the_same_text_twice_is_one_step(drafts: DraftStore) -> None:
    save(drafts, "one", "two", "two", "two")
    assert drafts.undo("owner", "notebook") == Draft("one")


def test_what_is_written_after_an_undo_goes_on_from_there(drafts: DraftStore) -> None:
    save(drafts, "one", "two")
    drafts.undo("owner", "notebook")
    save(drafts, "three")
    assert drafts.undo("owner", "notebook") == Draft("one")


def test_undone_drafts_stay_in_the_file(drafts: DraftStore, store: ChatStore) -> None:
    save(drafts, "one", "two")
    drafts.undo("owner", "notebook")
    with store.transaction() as db:
        assert [row["text"] for row in db.execute("SELECT text FROM drafts")] == ["one", "two"]


def test_owners_and_modes_do_not_mix(drafts: DraftStore) -> None:
    drafts.save("owner", "default", Draft("a", "b"))
    drafts.save("guest", "notebook", Draft("c"))
    drafts.undo("guest", "default")
    assert drafts.latest("owner", "default") == Draft("a", "b")
    assert drafts.latest("owner", "notebook") == Draft()
    assert drafts.latest("guest", "notebook") == Draft("c")


def test_two_hundred_drafts_of_each_are_kept(drafts: DraftStore, store: ChatStore) -> None:
    drafts.save("guest", "notebook", Draft("theirs"))
    save(drafts, *map(str, range(210)))
    with store.transaction() as db:
        kept = [row["text"] for row in db.execute("SELECT text FROM drafts WHERE owner = 'owner'")]
    assert kept == [str(i) for i in range(10, 210)]
    assert drafts.latest("guest", "notebook") == Draft("theirs")


def test_half_an_emoji_does_not_keep_a_draft_from_being_stored(drafts: DraftStore) -> None:
    drafts.save("owner", "default", Draft("\ud83e", "\udd8a"))
    assert drafts.latest("owner", "default") == Draft("?", "?")


def test_a_draft_that_cannot_be_stored_is_a_storage_error(
    drafts: DraftStore, store: ChatStore
) -> None:
    save(drafts, "one")
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageError):
        save(drafts, "two")
    store._db.execute("PRAGMA query_only = 0")
    assert drafts.latest("owner", "notebook") == Draft("one")


# -- what is being typed ----------------------------------------------------------------


def typed(drafts: DraftStore, text: str) -> Draft | None:
    """Kept over what stands there, as a tab that has seen it does."""
    before = drafts.latest("owner", "notebook").checksum
    return drafts.keep("owner", "notebook", Draft(text), before)


def test_what_is_typed_is_one_step_that_grows(drafts: DraftStore) -> None:
    save(drafts, "one")
    for text in ("one t", "one tw", "one two"):
        assert typed(drafts, text) is None
    assert drafts.latest("owner", "notebook") == Draft("one two")
    assert drafts.undo("owner", "notebook") == Draft("one")


def test_a_text_that_was_wiped_out_by_typing_can_be_brought_back(drafts: DraftStore) -> None:
    typed(drafts, "a long text")
    typed(drafts, "")
    typed(drafts, "new")
    assert drafts.undo("owner", "notebook") == Draft("a long text")


def test_typing_after_a_generation_begins_a_step(drafts: DraftStore) -> None:
    typed(drafts, "one")
    save(drafts, "one", "one two")
    typed(drafts, "one two three")
    assert drafts.undo("owner", "notebook") == Draft("one two")
    assert drafts.undo("owner", "notebook") == Draft("one")


def test_what_another_tab_wrote_is_not_overwritten_but_returned(drafts: DraftStore) -> None:
    seen = drafts.latest("owner", "notebook").checksum
    drafts.keep("owner", "notebook", Draft("theirs"), seen)
    assert drafts.keep("owner", "notebook", Draft("mine"), seen) == Draft("theirs")
    assert drafts.latest("owner", "notebook") == Draft("theirs")


def test_a_text_that_is_kept_all_the_same_leaves_the_other_in_the_history(
    drafts: DraftStore,
) -> None:
    typed(drafts, "theirs")
    assert drafts.keep("owner", "notebook", Draft("mine, longer"), None) is None
    assert drafts.undo("owner", "notebook") == Draft("theirs")


def test_the_same_text_from_two_tabs_is_no_conflict(drafts: DraftStore) -> None:
    typed(drafts, "same")
    assert drafts.keep("owner", "notebook", Draft("same"), 12345) is None


def test_the_checksum_is_the_one_that_pages_compute() -> None:
    assert Draft("Wikipedia", "é").checksum == 0x1EDD0504
