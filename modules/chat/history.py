"""From a stored chat to the messages that the model should see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modules.chat.attachments import Attachment, AttachmentStore
from modules.chat.messages import Message
from modules.chat.store import Chat, ChatStore, StoredMessage
from modules.chat.tools.call import messages_of

__all__ = ["add", "history_before", "history_of", "next_history", "read_history", "with_files"]


def read_history(store: ChatStore, chat: Chat) -> list[Message]:
    """The shown branch of a chat as the model should see it."""
    return _read(store, chat, store.branch(chat.id))


def history_before(store: ChatStore, chat: Chat, message: StoredMessage) -> list[Message]:
    """What is before a message, whether that is shown or not."""
    leaf = message.parent_id
    return _read(store, chat, [] if leaf is None else store.branch(chat.id, leaf))


def _read(store: ChatStore, chat: Chat, branch: list[StoredMessage]) -> list[Message]:
    files = [file for stored in branch for file in stored.attachments]
    return history_of(chat, branch, AttachmentStore(store).texts(files) if files else {})


def next_history(store: ChatStore, chat: Chat, text: str | None) -> list[Message]:
    """The same once `text` is sent, with the files that wait.

    Without a text, once the last message of the user is answered anew.
    """
    history = read_history(store, chat)
    if text is None:
        ends = [i for i, message in enumerate(history, 1) if message.role == "user"]
        return history[: ends[-1]] if ends else [*history, Message("user", "")]
    files = AttachmentStore(store)
    waiting = files.waiting(chat.id)
    add(history, Message("user", with_files(text, waiting, files.texts(waiting))))
    return history


def history_of(
    chat: Chat, branch: list[StoredMessage], texts: Mapping[int, str] | None = None
) -> list[Message]:
    """The messages of a branch as the model should see them; `texts` are those of its files.

    Neighbours of one role, as a deleted or failed reply leaves them, become one message,
    because most chat templates insist on turns that alternate.
    """
    history = [Message("system", chat.system)] if chat.system.strip() else []
    for stored in branch:
        content = with_files(stored.content, stored.attachments, texts or {})
        if stored.calls:
            like = Message(stored.role, "", stored.pinned, (stored.id,))
            for message in messages_of(content, stored.calls, like):
                add(history, message)
        elif content:
            add(history, Message(stored.role, content, stored.pinned, (stored.id,)))
    return history


def with_files(content: str, files: Iterable[Attachment], texts: Mapping[int, str]) -> str:
    """A message's text after the texts of its files, each of them between marks with its name."""
    parts = [
        f"[File: {file.name}]\n{texts[file.id]}\n[End of {file.name}]"
        for file in files
        if file.id in texts
    ]
    return "\n\n".join([*parts, *([content] if content else [])])


def add(history: list[Message], message: Message) -> None:
    """Put `message` at the end, in one with the last where both are of one role.

    What a tool was asked and answered stays by itself.
    """
    last = history[-1] if history else None
    alone = message.role == "tool" or (last is not None and last.tool_calls)
    if last is not None and last.role == message.role and not alone:
        last = history.pop()
        message = Message(
            message.role,
            f"{last.content}\n\n{message.content}",
            last.pinned or message.pinned,
            last.sources + message.sources,
            message.tool_calls,
        )
    history.append(message)
