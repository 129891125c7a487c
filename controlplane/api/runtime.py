"""What the routes work with: the database, the publisher, and who waits for a bundle."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, cast

import anyio
import sqlalchemy as sa
from fastapi import Depends, Request

from controlplane.api.announcements import Announcements
from controlplane.publishing import Publisher


@dataclass(frozen=True, slots=True)
class Runtime:
    """One a process.

    Attributes:
        batches: how many batches are unpacked at once, since each may take 64 MiB.
    """

    engine: sa.Engine
    publisher: Publisher
    announcements: Announcements
    batches: anyio.CapacityLimiter


async def _runtime(request: Request) -> Runtime:
    return cast("Runtime", request.app.state.runtime)


Api = Annotated[Runtime, Depends(_runtime)]


def now() -> datetime:
    """The moment of a request, in UTC."""
    return datetime.now(UTC)
