"""The database of this installation, for a command that runs beside it or without it."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from controlplane import registry
from controlplane.errors import NotFoundError, SettingsError
from controlplane.settings import Settings
from controlplane.up import running_database
from storage import projects
from storage.embedded import Embedded
from storage.engine import connect
from storage.migrate import require
from storage.policies import StoredPolicy


@contextmanager
def database_of(settings: Settings) -> Iterator[str]:
    """The URL that was given, that of the `pointsman up` which runs, or else the data, started.

    Raises:
        SettingsError: Nothing has ever been started in the data directory.
        EmbeddedError: The embedded database does not start.
    """
    given = settings.database_url
    found = given.get_secret_value() if given is not None else running_database(settings.data)
    if found is not None:
        yield found
        return
    if not (settings.data / "postgres").exists():
        raise SettingsError(
            f"{settings.data} holds no installation: name its folder with POINTSMAN_DATA_DIR, its "
            "database with POINTSMAN_DATABASE_URL, or start one with `pointsman up`"
        )
    with Embedded(settings.data, redis=False) as services:
        yield services.database_url


@contextmanager
def policy_of(
    settings: Settings, project: str, policy: str
) -> Iterator[tuple[sa.Connection, StoredPolicy]]:
    """A policy of this installation, and a connection on which it is read; nothing is written.

    Raises:
        SettingsError: Nothing has ever been started in the data directory.
        EmbeddedError: The embedded database does not start.
        SchemaError: The tables are not those of this release.
        NotFoundError: There is no such project, or no such policy in it.
    """
    with database_of(settings) as url:
        engine = connect(url, pool_size=1)
        try:
            with engine.connect() as connection:
                require(connection)
                found = projects.find_project(connection, project)
                if found is None:
                    raise NotFoundError(f"project {project!r} does not exist")
                yield connection, registry.find_policy(connection, found, policy)
        finally:
            engine.dispose()
