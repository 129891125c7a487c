"""Whether the services that a URL names answer: asked once, before anything is started on them."""

import redis
import sqlalchemy as sa

from storage.embedded import redis_client_url
from storage.engine import connect

TIMEOUT_S = 10.0


class UnreachableError(RuntimeError):
    """A service that was given by URL does not answer."""


def check_database(url: str) -> None:
    """Connect to Postgres once.

    Raises:
        UnreachableError: It does not answer, or does not let us in.
    """
    try:
        engine = connect(url, pool_size=1)
        with engine.connect():
            pass
        engine.dispose()
    except sa.exc.SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise UnreachableError(
            f"the database of POINTSMAN_DATABASE_URL cannot be used: {said[0] if said else error}; "
            "give postgresql://user:password@host:port/database"
        ) from error


def check_redis(url: str) -> None:
    """Ping Redis once.

    Raises:
        UnreachableError: It does not answer, or does not let us in.
    """
    try:
        with redis.Redis.from_url(
            redis_client_url(url), socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        ) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise UnreachableError(
            f"the Redis of POINTSMAN_REDIS_URL cannot be used: {error}; "
            "give redis://:password@host:port/number"
        ) from error
