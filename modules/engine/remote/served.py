"""`ServedCatalog`: what a server has, and what kind of server it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.engine.client import ServedModel
from modules.engine.remote.connection import Connection
from modules.engine.remote.failures import strange
from modules.engine.remote.kinds import PLAIN, ServerKind, kind_of

__all__ = ["ServedCatalog"]


@dataclass(slots=True)
class ServedCatalog:
    """The `Catalog` of a server. `kind` is what it was when it was asked last."""

    connection: Connection
    kind: ServerKind = PLAIN

    @property
    def host(self) -> str:
        """Its name and port."""
        return self.connection.address.host

    async def models(self) -> tuple[ServedModel, ...]:
        """What it serves now. Raises EngineError."""
        url = f"{self.connection.address.base}/models"
        data = (await self.connection.get(url)).get("data")
        if not isinstance(data, Sequence) or isinstance(data, str):
            raise strange(self.connection.address)
        entries = [
            entry
            for entry in data
            if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)
        ]
        self.kind = kind_of(entries)
        return tuple(_served(entry) for entry in entries)


def _served(entry: Mapping[str, Any]) -> ServedModel:
    """One entry: vLLM and SGLang tell max_model_len, and of which model a LoRA is one."""
    context = entry.get("max_model_len") or entry.get("context_length")
    parent, root = entry.get("parent"), entry.get("root")
    return ServedModel(
        entry["id"],
        context if isinstance(context, int) and context > 0 else 0,
        parent if isinstance(parent, str) else "",
        root if isinstance(root, str) else "",
    )
