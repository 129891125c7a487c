"""The installation of a test: started before it, stopped after it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from controlplane import keys
from controlplane.up import free_port
from learners.ids import uuid7
from storage import projects
from tests.loop.installation import Installation


@pytest.fixture
def installation(
    short_path: Path, database_url: str, redis_url: str, engine: sa.Engine
) -> Iterator[Installation]:
    now = datetime.now(UTC)
    with engine.begin() as connection:
        first = keys.first_admin(connection, now)
        assert first is not None
        project = projects.ensure_project(connection, uuid7(now, b"0" * 10), "default", now)
        edge = keys.mint(connection, project, name="edge", scopes=("edge",), now=now)
    found = Installation(
        data=short_path,
        database_url=database_url,
        redis_url=redis_url,
        engine=engine,
        admin_key=first.token,
        edge_key=edge.token,
        api_port=free_port("127.0.0.1", 0),
        edge_port=free_port("127.0.0.1", 0),
    )
    try:
        found.start("pool", "api", "worker", "beat", "edge")
        yield found
    finally:
        found.stop()
