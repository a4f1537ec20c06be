"""`Keys`: who may use the API, and who may change what is loaded."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from modules.access import caller_of
from modules.api.errors import ApiError

__all__ = ["Keys"]


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one launch.

    Without `api`, the API is for the owner, who calls from loopback; with it, everybody brings
    it, but for the owner where they are `owner_free`. `admin` opens everything; without one,
    what is loaded is changed by the owner alone. `page` tells the page's token, which stands for
    a key where none was given, and may be renewed while the server runs.
    """

    api: str = ""
    admin: str = ""
    owner_free: bool = False
    page: Callable[[], str] = str

    def require(self, request: Request) -> None:
        """Raises ApiError unless the caller may use the API."""
        owner = caller_of(request.scope).admin and (self.owner_free or not self._shared)
        if not self._held(request) and not owner:
            raise ApiError(
                "The API key is missing or wrong; send the server's --api-key as "
                "Authorization: Bearer KEY.",
                401,
                code="invalid_api_key",
            )

    def require_admin(self, request: Request) -> None:
        """Raises ApiError unless the caller may load, unload and apply."""
        if self.admin:
            if not _holds(request, self.admin):
                raise ApiError(
                    "This needs the admin key; send the server's --admin-key as "
                    "Authorization: Bearer KEY.",
                    401,
                    code="invalid_admin_key",
                )
        elif not caller_of(request.scope).admin:
            raise ApiError(
                "Only the owner may do this. Ask them, do it on their machine, or start Lantern "
                "with --admin-key KEY.",
                403,
                code="forbidden",
            )

    def require_owner(self, request: Request) -> None:
        """Raises ApiError unless the caller is the owner."""
        if not caller_of(request.scope).admin:
            raise ApiError(
                "Only the owner may see this. Open it on their machine.", 403, code="forbidden"
            )

    def require_owner_or_key(self, request: Request) -> None:
        """Raises ApiError unless the caller is the owner, or brings one of the keys."""
        if not self._held(request) and not caller_of(request.scope).admin:
            raise ApiError(
                "This is for the owner, and for those who send the server's --api-key as "
                "Authorization: Bearer KEY.",
                401,
                code="invalid_api_key",
            )

    @property
    def _shared(self) -> str:
        return self.api or self.page()

    def _held(self, request: Request) -> bool:
        """Whether the request brings one of the keys; the time does not tell which."""
        api, admin = _holds(request, self._shared), _holds(request, self.admin)
        return api or admin


def _holds(request: Request, key: str) -> bool:
    """Whether the request brings `key`, as OpenAI's clients send it or as Anthropic's do."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    fits = secrets.compare_digest(given.encode("latin-1"), key.encode())
    return fits and key != ""
