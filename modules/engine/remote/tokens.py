"""Numbers of tokens, tokens and texts, asked of the server that has the tokenizer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from modules.engine.conversation import Conversation, read_conversation
from modules.engine.protocol import Encoded
from modules.engine.remote.connection import Connection
from modules.engine.remote.failures import strange
from modules.engine.remote.kinds import ServerKind
from modules.engine.remote.pieces import texts_of
from modules.errors import EngineError, InvalidInputError, LanternError

__all__ = ["Tokenizer", "estimate"]

_BYTES_A_TOKEN = 3.5
"""English text has about four bytes a token; an estimate that is too high loses some context,
and one that is too low loses the reply."""
_AT_ONCE = 8


def estimate(text: str) -> int:
    """About how many tokens a text has, rather too many than too few."""
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_A_TOKEN)


def _as_text(talk: Conversation) -> str:
    """A chat as most templates would have it, with marks of the usual length."""
    turns = (f"<|im_start|>{one['role']}\n{one['content']}" for one in talk.messages)
    text = "<|im_end|>\n".join(turns)
    return text if talk.continued else f"{text}<|im_end|>\n<|im_start|>assistant\n"


class Tokenizer:
    """The tokenizer of one model. `exact` is whether its server counts at all."""

    def __init__(self, connection: Connection, kind: ServerKind, model: str) -> None:
        self._connection = connection
        self._kind = kind
        self._model = model
        self.exact = kind.counting != "estimate"

    async def try_out(self) -> None:
        """Find out whether the server counts, which one behind a gateway may not."""
        if self.exact:
            try:
                await self.counts(["Hello."], special_tokens=False)
            except LanternError:
                self.exact = False

    async def counts(self, texts: Sequence[str], special_tokens: bool) -> list[int]:
        """Tokens of each text, or of the chat that it is. Raises EngineError."""
        chats = [None if special_tokens else read_conversation(text) for text in texts]
        if any(chats) and self._kind.counts_chats and self.exact:
            pairs = zip(texts, chats, strict=True)
            return list(await asyncio.gather(*(self._count_either(*pair) for pair in pairs)))
        shown = [
            text if talk is None else _as_text(talk)
            for text, talk in zip(texts, chats, strict=True)
        ]
        return await self._plain(shown, special_tokens or any(chats))

    async def _count_either(self, text: str, talk: Conversation | None) -> int:
        if talk is None:
            return await self._count_one(text, special_tokens=False)
        return await self._count_chat(talk)

    async def _plain(self, texts: Sequence[str], special_tokens: bool) -> list[int]:
        if not self.exact:
            return [estimate(text) for text in texts]
        if self._kind.counting == "sglang":
            body = {"prompt": list(texts), "add_special_tokens": special_tokens}
            found = (await self._ask("/tokenize", body)).get("count")
            if not isinstance(found, list) or len(found) != len(texts):
                raise strange(self._connection.address)
            return [_count(self._connection, one) for one in found]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(text: str) -> int:
            async with gate:
                return await self._count_one(text, special_tokens)

        return list(await asyncio.gather(*map(one, texts)))

    async def _count_chat(self, talk: Conversation) -> int:
        """As the server's own template makes it."""
        body = {
            "messages": talk.messages,
            "add_generation_prompt": not talk.continued,
            "continue_final_message": talk.continued,
        }
        return _count(self._connection, (await self._ask("/tokenize", body)).get("count"))

    async def encode(self, text: str, special_tokens: bool) -> Encoded:
        """The tokens of a text. Raises EngineError where the server does not tell them."""
        if self._kind.counting == "lantern":
            body = {"text": text, "add_special_tokens": special_tokens}
            found = await self._connection.post(self._internal("encode"), body)
            texts = found.get("texts")
        elif self._kind.counting == "vllm" and self.exact:
            body = {
                "prompt": text,
                "add_special_tokens": special_tokens,
                "return_token_strs": True,
            }
            found = await self._ask("/tokenize", body)
            texts = texts_of(found.get("token_strs") or ())
        else:
            raise self._silent()
        ids = found.get("tokens")
        if not isinstance(ids, list) or not isinstance(texts, list) or len(ids) != len(texts):
            raise strange(self._connection.address)
        return Encoded("", tuple(map(int, ids)), tuple(map(str, texts)))

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens. Raises EngineError and InvalidInputError."""
        try:
            if self._kind.counting == "lantern":
                answer = await self._connection.post(
                    self._internal("decode"), {"tokens": list(ids)}
                )
            elif self.exact:
                answer = await self._ask("/detokenize", {"tokens": list(ids)})
            else:
                raise self._silent()
        except EngineError as error:
            if " refuses the request" in error.message:
                raise InvalidInputError(error.message, "Send ids of its own.", "tokens") from error
            raise
        text = answer.get("text", answer.get("prompt"))
        if not isinstance(text, str):
            raise strange(self._connection.address)
        return text

    async def _count_one(self, text: str, special_tokens: bool) -> int:
        body: dict[str, Any]
        if self._kind.counting == "lantern":
            body = {"text": text, "add_special_tokens": special_tokens}
            answer = await self._connection.post(self._internal("token-count"), body)
            return _count(self._connection, answer.get("length"))
        body = {"prompt": text, "add_special_tokens": special_tokens}
        return _count(self._connection, (await self._ask("/tokenize", body)).get("count"))

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        url = self._connection.address.root + path
        return await self._connection.post(url, {"model": self._model} | body)

    def _internal(self, name: str) -> str:
        return f"{self._connection.address.base}/internal/{name}"

    def _silent(self) -> EngineError:
        return EngineError(
            f"{self._kind.name} at {self._connection.address.host} does not tell tokens.",
            "Load the model on this machine to see them.",
        )


def _count(connection: Connection, found: object) -> int:
    if not isinstance(found, int):
        raise strange(connection.address)
    return found
