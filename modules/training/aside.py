"""`StepAside`: where the memory holds only one of chat and training, the chat model goes first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from modules.engine.client import EngineClient, EngineState
from modules.engine.swap import apply_again
from modules.errors import LanternError
from modules.loader.catalog import find_model
from modules.loader.checkpoint import check_checkpoint
from modules.loader.machine import Machine
from modules.training.config import TrainingConfig
from modules.training.memory import make_training_plan

__all__ = ["ChatModel", "StepAside", "needs_room"]


@dataclass(frozen=True, slots=True)
class StepAside:
    """What the queue may do with the chat model.

    `needed` says (in a thread of its own) whether a run does not fit beside the chat model;
    `release` unloads that and returns whether there was one; `restore` loads it again, and
    returns a sentence where that failed.
    """

    needed: Callable[[TrainingConfig], bool]
    release: Callable[[], Awaitable[bool]]
    restore: Callable[[], Awaitable[str]]


class ChatModel:
    """The engine's model, as it steps aside and comes back. Belongs to the event loop."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._before: EngineState | None = None

    async def release(self) -> bool:
        """Unload the model; what it was is remembered. False where none is loaded."""
        state = self._engine.state
        if state.phase != "ready" or state.command is None:
            return False
        self._before = state
        await self._engine.unload()
        return True

    async def restore(self) -> str:
        """Load it again with its LoRAs, unless somebody has loaded another one meanwhile.

        Returns a sentence where it, or one of its LoRAs, did not come back.
        """
        before, self._before = self._before, None
        if before is None or before.command is None:
            return ""
        if self._engine.state.phase in ("ready", "loading"):
            return ""
        try:
            await self._engine.load(before.command)
        except LanternError as error:
            return f"The chat model did not come back: {error}"
        lost = await apply_again(self._engine, before)
        return f"Not applied again to the chat model: {', '.join(lost)}." if lost else ""


def needs_room(
    models: Path, now: Callable[[], Machine], without_chat: Callable[[], Machine]
) -> Callable[[TrainingConfig], bool]:
    """What `StepAside.needed` may be: whether a run fits only where the chat model does not lie.

    Both machines are looked at in the moment of asking. A base that is missing or cannot be used
    needs no room: it is for the run to fetch it, or to say so.
    """

    def needed(config: TrainingConfig) -> bool:
        try:
            about = check_checkpoint(find_model(models, config.base))
        except LanternError:
            return False
        plan = make_training_plan(config, about, now(), without_chat=without_chat())
        return plan.steps_aside

    return needed
