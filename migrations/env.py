"""Alembic's entry: runs on the connection it is given, or on the database of the settings."""

import os

import sqlalchemy as sa
from alembic import context

from storage.engine import normalise
from storage.partitions import is_partition
from storage.tables import metadata


def _include(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or not is_partition(name or "")


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=_include,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    url = context.config.attributes.get("url") or os.environ.get("POINTSMAN_DATABASE_URL", "")
    if not url:
        raise SystemExit("Set POINTSMAN_DATABASE_URL to the database that is to be migrated.")
    with sa.create_engine(normalise(url), poolclass=sa.NullPool).connect() as opened:
        _run(opened)
        opened.commit()
