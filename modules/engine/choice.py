"""`engine_for`: the engine that a launch wants."""

from __future__ import annotations

from modules.engine.client import EngineClient
from modules.settings import Settings

__all__ = ["engine_for"]


def engine_for(settings: Settings) -> EngineClient:
    """A worker on this machine, or with --api-base a server elsewhere.

    Raises SettingsError for an address that is none.
    """
    if settings.api_base:
        from modules.engine.remote.address import ServerAddress
        from modules.engine.remote.engine import RemoteEngine

        address = ServerAddress.of(settings.api_base, settings.api_base_key)
        return RemoteEngine(address, settings.ctx_size)
    from modules.engine.local import LocalEngine

    return LocalEngine()
