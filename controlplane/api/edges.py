"""What the edges say of themselves."""

from typing import Annotated

from fastapi import APIRouter, Path

from controlplane.api.answers import EdgeAnswer, EdgesAnswer
from controlplane.api.auth import Edge, Reader
from controlplane.api.runtime import Api, now
from controlplane.api.wire import EdgeBody
from storage import edges

router = APIRouter(prefix="/v1/edges", tags=["edges"])

EdgeId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$")]


@router.post("/{edge_id}/status", status_code=204)
def report_status(edge_id: EdgeId, body: EdgeBody, caller: Edge, api: Api) -> None:
    """Keep an edge's newest word: which serials serve, which were refused, how far it lags."""
    with api.engine.begin() as connection:
        edges.put_status(connection, caller.project_id, edge_id, body.model_dump(), now())


@router.get("")
def list_edges(caller: Reader, api: Api) -> EdgesAnswer:
    """The project's newest 100 edges, last seen first."""
    with api.engine.connect() as connection:
        rows = edges.list_edges(connection, caller.project_id)
    return EdgesAnswer(items=[EdgeAnswer.model_validate(row) for row in rows])
