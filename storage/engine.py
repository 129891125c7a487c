"""The engine: one pool of connections a process, JSON by msgspec, short lock waits."""

from time import monotonic
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import InvalidatePoolError

PING_AFTER_S = 1.0

_DECODER = msgspec.json.Decoder()

# A client whose host is gone holds its locks until the server notices: within a minute, not hours.
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"


def connect(url: str, *, pool_size: int = 5, application: str = "pointsman") -> sa.Engine:
    """An engine for the database at ``url`` (``postgresql+psycopg://…``)."""
    engine = sa.create_engine(
        normalise(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=_DECODER.decode,
        connect_args={
            "application_name": application,
            "connect_timeout": 10,
            "options": "-c timezone=UTC -c lock_timeout=30s " + _KEEPALIVE,
        },
    )
    _ping_when_idle(engine)
    return engine


def normalise(url: str) -> str:
    """The URL with psycopg 3 as its driver, whichever Postgres spelling was given."""
    for prefix in ("postgres://", "postgresql://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url[len(prefix) :]
    return url


def _ping_when_idle(engine: sa.Engine) -> None:
    """Try a connection before it is given out, unless it worked a moment ago: a trip less then."""

    def given_back(_: Any, record: Any) -> None:
        record.info["idle_since"] = monotonic()

    def given_out(connection: Any, record: Any, _: Any) -> None:
        if monotonic() - record.info.get("idle_since", monotonic()) < PING_AFTER_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # the pool opens others then

    sa.event.listen(engine, "checkin", given_back)
    sa.event.listen(engine, "checkout", given_out)
