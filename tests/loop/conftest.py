"""One control plane for all tests of a module; each has a policy and an edge of its own."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from controlplane import keys
from controlplane.up import free_port
from learners.ids import uuid7
from storage import projects
from storage.embedded import Services, redis_client_url
from storage.engine import connect
from tests.conftest import fresh_database
from tests.loop.installation import Installation


@pytest.fixture(scope="module")
def control_plane(
    module_path: Path, template_url: str, services: Services
) -> Iterator[Installation]:
    with redis.Redis.from_url(redis_client_url(services.redis_url)) as client:
        client.flushall()
    with fresh_database(template_url, template=True) as url:
        engine = connect(url)
        now = datetime.now(UTC)
        with engine.begin() as connection:
            first = keys.first_admin(connection, now)
            assert first is not None
            project = projects.ensure_project(connection, uuid7(now, b"0" * 10), "default", now)
            edge = keys.mint(connection, project, name="edge", scopes=("edge",), now=now)
        found = Installation(
            data=module_path,
            database_url=url,
            redis_url=services.redis_url,
            engine=engine,
            admin_key=first.token,
            edge_key=edge.token,
            api_port=free_port("127.0.0.1", 0),
        )
        try:
            yield found
        finally:
            found.kill(*found.processes)
            engine.dispose()


@pytest.fixture
def installation(
    control_plane: Installation, request: pytest.FixtureRequest
) -> Iterator[Installation]:
    with control_plane.serving(f"chat-{request.node.originalname[:40].replace('_', '-')}"):
        yield control_plane
