"""Loading one model in the place of another, and back again where that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from modules.engine.client import EngineClient, EngineState
from modules.engine.protocol import LoadModel, ModelInfo
from modules.errors import LanternError, LoadFailedError

__all__ = ["apply_again", "load_or_go_back", "remembered"]


async def load_or_go_back(
    engine: EngineClient, load: Callable[[LoadModel], Awaitable[ModelInfo]], command: LoadModel
) -> ModelInfo:
    """`load` the command; if that fails, load again what was ready before, with its LoRAs.

    Raises LoadFailedError in either case, the message saying which model is there now.
    """
    before = engine.state
    try:
        return await load(command)
    except LoadFailedError as error:
        earlier = before.command if before.phase == "ready" else None
        # A load that somebody unloaded in its middle is not crashed but empty.
        if earlier is None or earlier == command or engine.state.phase != "crashed":
            raise
        name = Path(earlier.path).name
        try:
            await load(earlier)
        except LoadFailedError as second:
            raise LoadFailedError(
                f"{error.message} {name}, which was loaded before, could not be loaded again: "
                f"{second.message}",
                second.remedy,
            ) from error
        lost = await apply_again(engine, before)
        without = f", without {', '.join(lost)}" if lost else ""
        raise LoadFailedError(
            f"{error.message} {name} is loaded again{without}.", error.remedy
        ) from error


async def apply_again(engine: EngineClient, before: EngineState) -> list[str]:
    """Lay the LoRAs of an earlier state over the model; returns those that would not go."""
    lost = []
    for adapter in before.adapters:
        try:
            await engine.load_adapter(adapter.info.name, adapter.info.path)
            engine.weigh_adapters({adapter.info.name: adapter.weight})
        except LanternError:
            lost.append(adapter.info.name)
    return lost


def remembered(before: EngineState) -> EngineState:
    """Nothing loaded, by the wish of the user; "load again" loads what was ready before."""
    if before.phase != "ready":
        return EngineState()
    return EngineState(path=before.path, adapters=before.adapters, command=before.command)
