"""Errors in OpenAI's form, and the route class that turns every failure into one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from modules.errors import (
    InvalidInputError,
    LanternError,
    NoModelError,
    PromptTooLongError,
    TemplateError,
    WorkerDiedError,
)

__all__ = ["ApiError", "OpenAIRoute", "as_api_error", "error_body", "json_response"]

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer other than 200. `param` names the field at fault, `code` the kind."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code


def as_api_error(error: Exception) -> ApiError:
    """The answer to an error of Lantern's; an unknown one is a fault of the server's."""
    match error:
        case ApiError():
            return error
        case NoModelError():
            return ApiError(str(error), 503, code="model_not_loaded")
        case PromptTooLongError():
            return ApiError(str(error), code="context_length_exceeded")
        case TemplateError():
            return ApiError(str(error), param="messages", code="template_error")
        case InvalidInputError():
            return ApiError(str(error), param=error.field or None, code="invalid_value")
        case WorkerDiedError():
            return ApiError(str(error), 500, code="worker_died")
        case LanternError():
            return ApiError(str(error), 500, code="engine_error")
    log.error("API request failed", exc_info=error)
    return ApiError(f"Lantern failed: {type(error).__name__}. See the terminal.", 500)


def error_body(error: ApiError) -> dict[str, Any]:
    """`{"error": …}` as OpenAI's clients read it."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def json_response(content: object, status: int = 200, **headers: str) -> Response:
    """ASCII only, so that no text of a model can fail to be encoded."""
    return Response(json.dumps(content), status, headers or None, "application/json")


class OpenAIRoute(APIRoute):
    """A route whose failures have OpenAI's form; those of other routes stay as they are."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI makes, behind a boundary."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody is there to read it
            except Exception as failure:  # noqa: BLE001 - the handler boundary
                error = as_api_error(failure)
                headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
                return json_response(error_body(error), error.status, **headers)

        return guarded
