"""Bring a database to the newest schema, from a checkout and from an installed wheel alike."""

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from storage.engine import normalise
from storage.partitions import ensure_partitions

_OURS = re.compile(r"\d{4}")
_LOCK = 0x706F696E74  # "point": one migration at a time, whoever starts it


class SchemaError(RuntimeError):
    """The database has tables of another application, or not those that this release needs."""


def migrations_dir() -> Path:
    """The wheel's copy of the migrations where there is one, else the checkout's."""
    here = Path(__file__).resolve().parent
    packaged = here / "_migrations"
    return packaged if (packaged / "env.py").exists() else here.parent / "migrations"


def alembic_config(url: str) -> Config:
    """Alembic's configuration for the database at ``url``."""
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = normalise(url)
    return config


def migrate(url: str) -> None:
    """Upgrade to the newest revision and make this season's partitions. Safe to run at once.

    A later release's schema is left as it is: migrations only add, so this release runs on it.

    Raises:
        SchemaError: The database belongs to another application.
    """
    engine = sa.create_engine(normalise(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:k)"), {"k": _LOCK})
        connection.commit()
        try:
            if not is_later(revision(connection)):
                config = alembic_config(url)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            ensure_partitions(connection, datetime.now(UTC))
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(sa.text("SELECT pg_advisory_unlock(:k)"), {"k": _LOCK})
            connection.commit()
    engine.dispose()


def is_later(found: str | None) -> bool:
    """Whether a schema is a later release's: our revisions are numbers that rise.

    Raises:
        SchemaError: It is none of ours.
    """
    newest = newest_revision()
    if found is None or newest is None:
        return False
    if not _OURS.fullmatch(found):
        raise SchemaError(
            f"the database has the schema {found!r}, which is none of ours: another application "
            "keeps its tables there; give Pointsman a database of its own"
        )
    return int(found) > int(newest)


def require(connection: sa.Connection) -> None:
    """Let pass a schema of this release or a later one.

    Raises:
        SchemaError: It is older, or there is none.
    """
    found = revision(connection)
    if found != newest_revision() and not is_later(found):
        raise SchemaError(
            f"the database has {f'the schema {found}' if found else 'no tables yet'}, this release "
            f"needs the schema {newest_revision()}: run `pointsman migrate` (`pointsman up` does "
            "so by itself)"
        )


@cache
def newest_revision() -> str | None:
    """The schema that this release needs."""
    return ScriptDirectory(str(migrations_dir())).get_current_head()


def revision(connection: sa.Connection) -> str | None:
    """The schema that the database has; None for a database without any."""
    return MigrationContext.configure(connection).get_current_revision()
