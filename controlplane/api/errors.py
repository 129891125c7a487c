"""Every error as RFC 9457 problem+json: what is wrong, with which field and value, and the remedy.

The services' errors know no HTTP: this module alone gives each its status.
"""

import http
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from controlplane.errors import ConflictError, GateError, InvalidError, NotFoundError, StaleError
from feedback.errors import InvalidEventError, KeyReusedError, MetricError, UnknownFeedbackError
from learners.errors import LearnersError

PROBLEM = "application/problem+json"
MAX_SHOWN = 200

_STATUS: Mapping[type[Exception], int] = {
    NotFoundError: 404,
    UnknownFeedbackError: 404,
    ConflictError: 409,
    KeyReusedError: 409,
    StaleError: 412,
    InvalidError: 422,
    InvalidEventError: 422,
    MetricError: 422,
    LearnersError: 422,
}

log = structlog.get_logger(__name__)


class ProblemError(Exception):
    """A request that the API itself refuses."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        """``more`` are further members of the problem: field, value, remedy, checks."""
        super().__init__(detail)
        self.status = status
        self.headers = headers
        self.more = more

    def response(self) -> Response:
        """The answer that says so."""
        return problem(self.status, str(self), headers=self.headers, **self.more)


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """A problem+json answer; members that are None are left out."""
    body = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **{name: value for name, value in more.items() if value is not None},
    }
    return JSONResponse(body, status, dict(headers or {}), PROBLEM)


def install(app: FastAPI) -> None:
    """Have the app answer every error as a problem."""
    for kind in _STATUS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(ProblemError, _own)
    app.add_exception_handler(GateError, _gate)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    for busy in (OperationalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(busy, _unavailable)
    app.add_exception_handler(Exception, _unexpected)


def status_of(error: Exception) -> int:
    """The status of a service's error."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


async def _refused(_request: Request, error: Exception) -> Response:
    field = getattr(error, "field", None) or None
    return problem(status_of(error), str(error), field=field)


async def _own(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise error
    return error.response()


async def _gate(_request: Request, error: Exception) -> Response:
    checks = error.checks if isinstance(error, GateError) else []
    return problem(
        422,
        str(error),
        field="version",
        checks=checks,
        remedy="choose a version whose newest verdict has passed, or wait for the next round",
    )


async def _invalid(_request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    first = found[0] if found else {}
    if first.get("type") == "json_invalid":
        place, why = first["loc"][-1], first["ctx"]["error"]
        return problem(
            400, f"the body is not JSON: {why} at character {place}", remedy="send a JSON object"
        )
    field, detail = place_of(first), str(first.get("msg", "the request is malformed"))
    return problem(
        422,
        f"{field}: {detail}" if field else detail,
        field=field or None,
        value=shown(first.get("input")),
        remedy="see /openapi.json for what this route takes",
        errors=[{"field": place_of(one), "detail": str(one.get("msg", ""))} for one in found[:20]],
    )


def place_of(error: Mapping[str, Any]) -> str:
    """The field at fault, as the sender wrote it."""
    named = getattr(error.get("ctx", {}).get("error"), "field", None)
    if named:
        return str(named)
    loc: Sequence[Any] = error.get("loc", ())
    if loc and loc[0] in {"body", "query", "path", "header", "cookie"}:
        loc = loc[1:]
    if error.get("type") == "json_invalid":
        return ""
    return ".".join(str(part) for part in loc)


def shown(value: Any) -> str | None:
    """A value as a message may hold it: short."""
    return None if value is None else repr(value)[:MAX_SHOWN]


async def _http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    # FastAPI takes whatever fails while it reads a body for a body that does not parse.
    if isinstance(error.__cause__, ProblemError):
        return error.__cause__.response()
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "there is nothing at this path: see /openapi.json"
    if error.status_code == 405:
        detail = "this path has no such method: see /openapi.json"
    return problem(error.status_code, detail, headers=error.headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    return problem(400, "the connection was closed before the body had arrived")


async def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("database.unavailable", path=request.url.path, error=str(error)[:500])
    return problem(
        503,
        "the database does not answer in time",
        headers={"Retry-After": "1"},
        remedy="try again in a second",
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("request.failed", method=request.method, path=request.url.path, error=repr(error))
    return problem(500, "an unexpected error: it has been logged", remedy="try again later")
