"""Events come in: decisions and outcomes from edges, feedback from apps."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Path, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from controlplane.api.answers import (
    BatchAnswer,
    FeedbackAnswer,
    FeedbackBatchAnswer,
    FeedbackItemAnswer,
)
from controlplane.api.auth import Caller, Ingesting, Uploading
from controlplane.api.errors import place_of
from controlplane.api.idempotency import IdempotencyKey
from controlplane.api.runtime import Api, Runtime, now
from controlplane.api.uploads import MAX_COMPRESSED, MAX_PLAIN, Upload, lines_of, receive
from controlplane.api.wire import FeedbackBatchBody, FeedbackBody, FeedbackItem
from feedback import ingest
from feedback.errors import FeedbackError, InvalidEventError
from feedback.ingest import Batch
from feedback.lines import MAX_LINE_BYTES, MAX_LINES
from feedback.said import Receipt, Said

router = APIRouter(prefix="/v1", tags=["events"])

Record = Callable[[sa.Connection, UUID, Sequence[bytes], datetime], Batch]

_NDJSON: dict[str, Any] = {
    "parameters": [
        {
            "name": "Content-Encoding",
            "in": "header",
            "schema": {"type": "string", "enum": ["gzip", "identity"]},
        }
    ],
    "requestBody": {
        "required": True,
        "description": (
            f"One JSON object a line: at most {MAX_LINES:,} lines, {MAX_LINE_BYTES:,} bytes a "
            f"line, {MAX_COMPRESSED:,} bytes gzipped and {MAX_PLAIN:,} bytes plain. Rejected "
            "lines are final: do not send them again."
        ),
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        "x-max-bytes": MAX_COMPRESSED,
        "x-max-plain-bytes": MAX_PLAIN,
        "x-max-lines": MAX_LINES,
    },
}


@router.post("/decisions:batch", openapi_extra=_NDJSON)
async def upload_decisions(request: Request, caller: Uploading, api: Api) -> BatchAnswer:
    """Store decisions; each once, whoever sends it again."""
    return await _upload(request, caller, api, ingest.record_decisions)


@router.post("/outcomes:batch", openapi_extra=_NDJSON)
async def upload_outcomes(request: Request, caller: Uploading, api: Api) -> BatchAnswer:
    """Store what the edge measured; the first outcome of a decision counts."""
    return await _upload(request, caller, api, ingest.record_outcomes)


async def _upload(request: Request, caller: Caller, api: Runtime, record: Record) -> BatchAnswer:
    upload = await receive(request)
    async with api.batches:
        return await run_in_threadpool(_record, api, caller, upload, record)


def _record(api: Runtime, caller: Caller, upload: Upload, record: Record) -> BatchAnswer:
    lines = lines_of(upload)
    with api.engine.begin() as connection:
        return BatchAnswer.model_validate(record(connection, caller.project_id, lines, now()))


@router.post("/feedback", status_code=202)
def give_feedback(
    body: FeedbackBody, caller: Ingesting, api: Api, key: IdempotencyKey = None
) -> FeedbackAnswer:
    """Take feedback; it is joined with its decision later. Its source is the API key's name."""
    with api.engine.begin() as connection:
        receipt = ingest.record_feedback(
            connection, caller.project_id, _said(body, key), source=caller.source, now=now()
        )
    return FeedbackAnswer.model_validate(receipt)


@router.post("/feedback:batch")
def give_feedback_batch(
    body: FeedbackBatchBody, caller: Ingesting, api: Api
) -> FeedbackBatchAnswer:
    """Take feedback item by item: a bad item is answered with its field, and spoils nobody."""
    items = [_read(item) for item in body.items]
    said = [item for item in items if isinstance(item, Said)]
    with api.engine.begin() as connection:
        taken = ingest.record_feedback_batch(
            connection, caller.project_id, said, source=caller.source, now=now()
        )
    answers = map(_answer, taken)
    return FeedbackBatchAnswer(
        items=[next(answers) if isinstance(item, Said) else item for item in items]
    )


@router.delete("/feedback/{feedback_id}", status_code=204)
def retract_feedback(feedback_id: Annotated[UUID, Path()], caller: Ingesting, api: Api) -> None:
    """Take feedback back: its decisions are joined again without it."""
    with api.engine.begin() as connection:
        ingest.retract(connection, caller.project_id, feedback_id, now())


def _read(item: Any) -> Said | FeedbackItemAnswer:
    try:
        body = FeedbackItem.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        field = place_of(first) or None
        return FeedbackItemAnswer(status="rejected", field=field, detail=first["msg"])
    return _said(body, body.idempotency_key)


def _answer(taken: Receipt | FeedbackError) -> FeedbackItemAnswer:
    if isinstance(taken, Receipt):
        return FeedbackItemAnswer.model_validate(taken)
    field = taken.field if isinstance(taken, InvalidEventError) else "idempotency_key"
    return FeedbackItemAnswer(status="rejected", field=field, detail=str(taken))


def _said(body: FeedbackBody, key: str | None) -> Said:
    about: Literal["decision_id", "episode_id", "response_id"]
    for about in ("decision_id", "episode_id", "response_id"):
        identifier = getattr(body, about)
        if identifier is not None:
            return Said(
                about, identifier, body.metric, body.value, body.occurred_at, body.tags, key
            )
    raise InvalidEventError("decision_id", "give decision_id, episode_id or response_id")
