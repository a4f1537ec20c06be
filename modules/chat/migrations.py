"""The schema of the chat store, as numbered steps that each run once."""

from __future__ import annotations

import sqlite3
import time

__all__ = ["migrate"]

_CHATS = """
CREATE TABLE chats (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    title TEXT NOT NULL DEFAULT '',
    system TEXT NOT NULL DEFAULT '',
    leaf_id INTEGER,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    deleted_at REAL
);
CREATE INDEX chats_by_owner ON chats (owner, updated_at);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chat_id INTEGER NOT NULL REFERENCES chats (id),
    parent_id INTEGER REFERENCES messages (id),
    role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
    content TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('complete', 'streaming', 'stopped', 'cut', 'failed')),
    error TEXT NOT NULL DEFAULT '',
    about TEXT NOT NULL DEFAULT '{}',
    created_at REAL NOT NULL,
    deleted_at REAL
);
CREATE INDEX messages_by_chat ON messages (chat_id);
CREATE INDEX messages_by_parent ON messages (parent_id);
"""

_DRAFTS = """
CREATE TABLE drafts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('default', 'notebook')),
    text TEXT NOT NULL,
    reply TEXT NOT NULL,
    created_at REAL NOT NULL,
    undone_at REAL
);
CREATE INDEX drafts_by_owner ON drafts (owner, kind, id);
"""

# A JSON list of [name, weight]; NULL where the chat follows what is applied to all.
_ADAPTERS = "ALTER TABLE chats ADD COLUMN adapters TEXT;"

# `character` is the name of a file; a pinned message is never left out of the context.
_HABITS = """
ALTER TABLE chats ADD COLUMN mode TEXT NOT NULL DEFAULT 'instruct';
ALTER TABLE chats ADD COLUMN character TEXT NOT NULL DEFAULT '';
ALTER TABLE chats ADD COLUMN folder TEXT NOT NULL DEFAULT '';
ALTER TABLE chats ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
"""

# An attachment without a message waits to be sent; versions of a message share theirs.
_ATTACHMENTS = """
CREATE TABLE attachments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chat_id INTEGER NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    text TEXT NOT NULL,
    characters INTEGER NOT NULL,
    note TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX attachments_by_chat ON attachments (chat_id);
CREATE TABLE message_attachments (
    message_id INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    attachment_id INTEGER NOT NULL REFERENCES attachments (id) ON DELETE CASCADE,
    PRIMARY KEY (message_id, attachment_id)
) WITHOUT ROWID;
CREATE INDEX message_attachments_by_file ON message_attachments (attachment_id);
"""

# What search.py reads. A reply enters it when it has ended, since one that is being written is
# stored each second; after that, its text does not change. What is deleted stays in it, and
# is left out by who reads.
_SEARCH = """
CREATE VIRTUAL TABLE messages_found USING fts5 (
    content, content='messages', content_rowid='id',
    tokenize="unicode61 remove_diacritics 2", prefix='1 2'
);
CREATE TRIGGER messages_found_new AFTER INSERT ON messages WHEN new.state <> 'streaming' BEGIN
    INSERT INTO messages_found (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER messages_found_ended AFTER UPDATE OF state ON messages
WHEN old.state = 'streaming' AND new.state <> 'streaming' BEGIN
    INSERT INTO messages_found (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER messages_found_gone AFTER DELETE ON messages WHEN old.state <> 'streaming' BEGIN
    INSERT INTO messages_found (messages_found, rowid, content)
    VALUES ('delete', old.id, old.content);
END;
INSERT INTO messages_found (rowid, content)
SELECT id, content FROM messages WHERE state <> 'streaming';
"""

_PROFILES = """
CREATE TABLE profiles (
    owner TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    about TEXT NOT NULL,
    picture BLOB
);
"""

# Which tools are on in a chat, and the marks of those that may run there without asking. A reply
# that waits for the owner goes on later, and is in the index of the search while it waits.
_TOOLS = """
ALTER TABLE chats ADD COLUMN tools TEXT NOT NULL DEFAULT '[]';
ALTER TABLE chats ADD COLUMN always TEXT NOT NULL DEFAULT '{}';
ALTER TABLE messages ADD COLUMN calls TEXT NOT NULL DEFAULT '[]';
CREATE TRIGGER messages_found_resumed AFTER UPDATE OF state ON messages
WHEN old.state <> 'streaming' AND new.state = 'streaming' BEGIN
    INSERT INTO messages_found (messages_found, rowid, content)
    VALUES ('delete', old.id, old.content);
END;
"""

# What the page shows of a message, where that is other than what the model sees of it.
_VISIBLE = "ALTER TABLE messages ADD COLUMN visible TEXT;"

# How likely each token of a reply was, where somebody looked at that: see reply_tokens.py.
_TOKENS = """
CREATE TABLE reply_tokens (
    id INTEGER PRIMARY KEY,
    message_id INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    start INTEGER NOT NULL,
    tokens TEXT NOT NULL
);
CREATE INDEX reply_tokens_by_message ON reply_tokens (message_id);
"""

_STEPS = (
    _CHATS, _DRAFTS, _ADAPTERS, _HABITS, _ATTACHMENTS, _SEARCH, _PROFILES, _TOOLS, _VISIBLE,
    _TOKENS,
)  # fmt: skip


def migrate(db: sqlite3.Connection) -> None:
    """Bring `db` to the newest schema; each step is one transaction."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, applied_at REAL)"
    )
    done = {row[0] for row in db.execute("SELECT number FROM migrations")}
    for number, script in enumerate(_STEPS, start=1):
        if number not in done:
            note = f"INSERT INTO migrations VALUES ({number}, {time.time()});"  # noqa: S608
            db.executescript(f"BEGIN IMMEDIATE; {script} {note} COMMIT;")
