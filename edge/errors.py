"""Errors as RFC 9457 ``application/problem+json``, which OpenAI's clients can read too.

Each body also carries ``error {message, type, code, param}``, an extension member of the problem,
because OpenAI's clients look there.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from aiohttp import web

MAX_SHOWN = 200
log = structlog.get_logger()


class EdgeError(Exception):
    """Base of all errors of this folder."""


class SpoolError(EdgeError):
    """The spool's folder cannot be used."""


class SignalsError(EdgeError):
    """The models that the settings name cannot be used."""


class ToolsError(EdgeError):
    """The file of refined tools that the settings name cannot be used."""


class UpstreamError(EdgeError):
    """An arm failed before it had answered; ``reason`` is a short word for the metrics.

    ``status`` is what it answered, if it did, and ``retry_after_s`` its wish, if it has one.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep what the arm said beside the message."""
        super().__init__(detail)
        self.reason = reason
        self.status = status
        self.retry_after_s = retry_after_s


class ControlPlaneError(EdgeError):
    """The control plane cannot be reached or refuses; ``retry_after_s`` is its wish, if it has one.

    ``final`` says that the same bytes will never be taken, ``missing`` that there is nothing yet.
    """

    def __init__(
        self,
        detail: str,
        *,
        final: bool = False,
        missing: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep what the answer says of a second try."""
        super().__init__(detail)
        self.final = final
        self.missing = missing
        self.retry_after_s = retry_after_s


class TooLargeError(ControlPlaneError):
    """A download goes past its limit; ``etag`` names what was not read."""

    def __init__(self, detail: str, *, etag: str | None) -> None:
        """Keep the name, so that the same is not asked for again at once."""
        super().__init__(detail)
        self.etag = etag


class ProblemError(EdgeError):
    """What a client did, or meets, said so that it can act on it."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        """``members`` are field, value and remedy; ``headers`` go out with the answer."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.headers = headers or {}
        self.members = members

    def response(self) -> web.Response:
        """The answer that says it."""
        detail = str(self)
        body = {
            "type": f"urn:pointsman:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": detail,
            **self.members,
            "error": {
                "message": detail,
                "type": _kind(self.status),
                "code": self.code,
                "param": self.members.get("field"),
            },
        }
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        response = web.Response(
            status=self.status,
            body=msgspec.json.encode(body),
            content_type="application/problem+json",
            headers=headers,
        )
        if self.status == 408:  # what is left of the body may never come
            response.force_close()
        return response


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def not_json(error: Exception) -> ProblemError:
    """400: a body cannot be read, if only because it is nested too deeply."""
    if isinstance(error, RecursionError):
        return ProblemError(
            400, "not_json", "the body is nested too deeply", remedy="send flatter JSON"
        )
    return ProblemError(400, "not_json", f"the body is not the JSON that is asked for: {error}")


def invalid(field: str, value: object, remedy: str) -> ProblemError:
    """422: one field of a request cannot be taken."""
    try:
        shown = repr(value)
    except RecursionError:
        shown = f"a deeply nested {type(value).__name__}"
    if len(shown) > MAX_SHOWN:
        shown = f"{shown[:MAX_SHOWN]}…"
    return ProblemError(
        422,
        "invalid_field",
        f"{field} is {shown}: {remedy}",
        field=field,
        value=shown,
        remedy=remedy,
    )


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler raises into problems; a bug becomes a 500 without its inside."""
    try:
        return await handler(request)
    except ProblemError as problem:
        return problem.response()
    except web.HTTPRequestEntityTooLarge as error:
        return ProblemError(
            413, "body_too_large", f"the body is too large: {error.text}", remedy="send less"
        ).response()
    except web.HTTPException as error:
        return ProblemError(
            error.status, "http_error", f"{request.method} {request.path}: {error.reason}"
        ).response()
    except Exception:
        # The last line of defence: without it aiohttp would answer in HTML.
        log.exception("request.failed", method=request.method, route=route_name(request))
        return ProblemError(
            500, "internal", "the edge failed on this request; see its log"
        ).response()


def route_name(request: web.Request) -> str:
    """The route's pattern, which unlike the path holds nothing of the client's."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"
