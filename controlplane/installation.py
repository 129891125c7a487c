"""The database of this installation, for a command that runs beside it or without it."""

from collections.abc import Iterator
from contextlib import contextmanager

from controlplane.errors import SettingsError
from controlplane.settings import Settings
from controlplane.up import running_database
from storage.embedded import Embedded


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
