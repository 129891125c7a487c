"""The OpenAPI document: FastAPI's, with our problems and the limits of every body."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from controlplane.api.answers import Problem
from controlplane.api.limits import MAX_BODY
from controlplane.api.wire import FeedbackItem

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_DESCRIPTION = (
    "Routes, learns and releases. Errors are RFC 9457 `application/problem+json`; times are "
    "RFC 3339 with a zone; ids are UUIDv7."
)


def install(app: FastAPI) -> None:
    """Have the app serve the document; it is made once."""

    def document() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> Json:
    found = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes
    )
    schemas: Json = found.setdefault("components", {}).setdefault("schemas", {})
    for model in (Problem, FeedbackItem):
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operation in _operations(found):
        _state_errors(operation)
        if "requestBody" in operation:
            _state_limit(operation["requestBody"])
    return found


def _operations(document: Json) -> Iterator[Json]:
    for path in document["paths"].values():
        yield from path.values()


def _state_errors(operation: Json) -> None:
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "What is wrong, with which field, and what to do about it",
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
    }


def _state_limit(body: Json) -> None:
    if "x-max-bytes" not in body:
        body["x-max-bytes"] = MAX_BODY
        body["description"] = f"At most {MAX_BODY:,} bytes."
