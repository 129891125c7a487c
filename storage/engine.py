"""The engine: one pool of connections a process, JSON by msgspec, short lock waits."""

import msgspec
import sqlalchemy as sa

_DECODER = msgspec.json.Decoder()

# A client whose host is gone holds its locks until the server notices: within a minute, not hours.
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"


def connect(url: str, *, pool_size: int = 5, application: str = "pointsman") -> sa.Engine:
    """An engine for the database at ``url`` (``postgresql+psycopg://…``)."""
    return sa.create_engine(
        normalise(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=_DECODER.decode,
        connect_args={
            "application_name": application,
            "connect_timeout": 10,
            "options": "-c timezone=UTC -c lock_timeout=30s " + _KEEPALIVE,
        },
    )


def normalise(url: str) -> str:
    """The URL with psycopg 3 as its driver, whichever Postgres spelling was given."""
    for prefix in ("postgres://", "postgresql://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url[len(prefix) :]
    return url
