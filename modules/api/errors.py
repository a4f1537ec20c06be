"""Errors in OpenAI's form, and routes that turn every failure into one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from modules.api.meters import Meters
from modules.errors import (
    AdapterError,
    InvalidInputError,
    LanternError,
    LoadFailedError,
    ModelError,
    ModelNotFoundError,
    NoModelError,
    PromptTooLongError,
    TemplateError,
    WorkerDiedError,
)

__all__ = ["ApiError", "as_api_error", "error_body", "json_response", "route_class"]

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
        case ModelNotFoundError():
            return ApiError(str(error), 404, code="model_not_found")
        case LoadFailedError():
            return ApiError(str(error), 409, code="load_failed")
        case ModelError():
            return ApiError(str(error), code="model_unusable")
        case AdapterError():
            return ApiError(str(error), code="adapter_unusable")
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


def route_class(
    meters: Meters, body: Callable[[ApiError], dict[str, Any]] = error_body
) -> type[APIRoute]:
    """Routes whose failures have the form `body`, and whose answers are counted.

    The failures of other routes stay as they are.
    """

    class ApiRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                response = await _guarded(handle, request, body)
                meters.count(self.path, response.status_code)
                return response

            return guarded

    return ApiRoute


async def _guarded(
    handle: Callable[[Request], Coroutine[Any, Any, Response]],
    request: Request,
    body: Callable[[ApiError], dict[str, Any]],
) -> Response:
    try:
        return await handle(request)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody is there to read it
    except Exception as failure:  # noqa: BLE001 - the handler boundary
        error = as_api_error(failure)
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        return json_response(body(error), error.status, **headers)
