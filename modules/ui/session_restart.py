"""Restarting from the page: first whether the next launch would come up, then the end of this."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from modules.address import bind, check_certificate, own_url
from modules.context import AppContext
from modules.settings import Settings, read_again
from modules.ui.resume import loaded_now
from modules.ui.web import make_access

__all__ = ["restart"]

_ANSWERED_S = 0.3
"""So that the answer is with the tab before the server ends."""


async def restart(ctx: AppContext) -> dict[str, Any]:
    """Start the server anew, as soon as this is answered. Returns where the page will be.

    Replies in progress are stored as far as they are. Raises LanternError where the launch could
    not come up again: then nothing happens.
    """
    if not ctx.host.can_restart:
        ctx.host.restart()  # which says why not
    following = read_again(ctx.host.origins)[0]
    await asyncio.to_thread(_try, ctx, following)
    asyncio.get_running_loop().call_later(_ANSWERED_S, ctx.host.restart, loaded_now(ctx))
    port = following.listen_port
    same = _door(following) == _door(ctx.settings) or not port
    return {"url": "" if same else own_url(following, port)}


def _try(ctx: AppContext, following: Settings) -> None:
    """What a launch does before it serves, as far as it can be done beside the one that serves."""
    check_certificate(following)
    make_access(following)
    following.paths.prepare()
    if following.character:
        ctx.characters.find(following.character)
    now = ctx.settings
    if following.listen_port and following.listen_port != now.listen_port:
        bind(following).close()
    elif following.host != now.host:  # the port is ours; whether the address is, any port tells
        bind(dataclasses.replace(following, listen_port=0)).close()


def _door(settings: Settings) -> tuple[str, int, bool]:
    return settings.host, settings.listen_port, bool(settings.ssl_certfile)
