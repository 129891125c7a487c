"""What each edge last said of itself."""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.tables import edges


def put_status(
    connection: sa.Connection,
    project_id: UUID,
    edge_id: str,
    status: dict[str, Any],
    now: datetime,
) -> None:
    """Keep an edge's newest status."""
    connection.execute(
        insert(edges)
        .values(project_id=project_id, edge_id=edge_id, status=status, seen_at=now)
        .on_conflict_do_update(
            index_elements=["project_id", "edge_id"], set_={"status": status, "seen_at": now}
        )
    )


def list_edges(
    connection: sa.Connection, project_id: UUID, *, limit: int = 100
) -> list[dict[str, Any]]:
    """The project's edges, last seen first."""
    rows = connection.execute(
        sa.select(edges.c.edge_id, edges.c.status, edges.c.seen_at)
        .where(edges.c.project_id == project_id)
        .order_by(edges.c.seen_at.desc())
        .limit(limit)
    )
    return [{**r.status, "edge_id": r.edge_id, "seen_at": r.seen_at} for r in rows]
