"""Whether the process lives, and whether it can serve."""

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError

from controlplane.api.answers import HealthAnswer
from controlplane.api.errors import ProblemError
from controlplane.api.runtime import Api
from storage import migrate

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> HealthAnswer:
    """The process answers."""
    return HealthAnswer()


@router.get("/readyz")
def readyz(api: Api) -> HealthAnswer:
    """The database answers, and has the schema of this release or a later one."""
    try:
        with api.engine.connect() as connection:
            standing = migrate.revision(connection)
    except SQLAlchemyError as error:
        raise ProblemError(503, "the database does not answer", remedy="is it running?") from error
    if standing != migrate.newest_revision() and not migrate.is_later(standing):
        raise ProblemError(
            503,
            f"the database has the schema {standing}, this release needs "
            f"{migrate.newest_revision()}",
            remedy="run pointsman migrate",
        )
    return HealthAnswer()
