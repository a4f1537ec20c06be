"""How a chat begins: empty, or with the greetings of a character."""

from __future__ import annotations

from modules.chat.cast import Casting
from modules.chat.character import fill
from modules.chat.store import Chat, ChatStore, Mode
from modules.errors import NotFoundError

__all__ = ["open_chat"]


def open_chat(
    store: ChatStore, casting: Casting, owner: str, mode: Mode = "instruct", character: str = ""
) -> Chat:
    """A new chat. Where the character `character` has greetings, they are versions of its first
    message.

    Raises NotFoundError where there is no such character, or SettingsError for a damaged one.
    """
    found = casting.character(character)
    if character and found is None:
        raise NotFoundError(f"There is no character {character[:60]!r}.", "Choose another one.")
    user = casting.profile(owner).name
    with store.transaction():
        chat = store.create_chat(owner)
        store.change_chat(chat.id, mode=mode, character=character)
        if found and found.greetings:
            about = {"character": character, "name": found.name}
            made = [
                store.append(chat.id, None, "assistant", fill(text, user, found.name), about=about)
                for text in found.greetings
            ]
            store.show_version(chat.id, made[0].id)
        return store.chat(chat.id, owner)
