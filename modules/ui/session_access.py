"""What the Session tab shows of access: who is connected, and the links that lead here."""

from __future__ import annotations

from typing import Any

from modules.access import Caller
from modules.context import AppContext
from modules.errors import NotFoundError
from modules.ui.web import links
from modules.visitors import Visitor

__all__ = ["access_json", "links_json", "log_out"]


def access_json(ctx: AppContext, caller: Caller) -> dict[str, Any]:
    """Who has the page open, and by which doors one comes in; no token is in it."""
    access, host = ctx.access, ctx.host
    sessions = access.accounts.sessions()
    return {
        "here": caller.local,
        "door": "login" if access.accounts else "token" if access.remote else "none",
        "visitors": [
            {
                "label": _label(one),
                "kind": one.kind,
                "since": one.since,
                "tabs": one.tabs,
                "login": one.name if sessions[one.name] else "",
            }
            for one in host.visitors.present()
        ],
        "logins": [{"name": name, "sessions": count} for name, count in sorted(sessions.items())],
        "addresses": [
            {"what": what, "url": host.redact(url) if not caller.local else url}
            for what, url in host.addresses.items()
        ],
        "share": {"state": host.share.state, "told": host.share.told},
        "key": "given" if ctx.settings.api_key else "token" if access.remote else "none",
        "admin_key": bool(ctx.settings.admin_key),
        "owner_link": bool(access.owner_token),
    }


def links_json(ctx: AppContext) -> dict[str, Any]:
    """The whole links with their tokens, and the key of the API that takes its place."""
    access = ctx.access
    found = []
    for what, url in ctx.host.addresses.items():
        if what == "On this machine":
            continue
        guests, owner = links(access, url)
        found.append({"what": what, "guests": guests, "owner": owner})
    key = "" if ctx.settings.api_key else access.token or access.api_token
    return {"links": found, "key": key}


def log_out(ctx: AppContext, name: str) -> int:
    """End all sessions of a login. Raises NotFoundError where it has none."""
    ended = ctx.access.log_out(name)
    if not ended:
        raise NotFoundError("This login has no session.", "Look who is connected again.")
    return ended


def _label(one: Visitor) -> str:
    words = {
        "here": "You, on this machine",
        "owner": f"The owner, from elsewhere{f' ({one.name})' if one.name else ''}",
        "login": one.name,
        "guest": f"Guest {one.number}",
    }
    return words[one.kind]
