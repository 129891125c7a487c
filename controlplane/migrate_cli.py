"""`pointsman migrate`: bring the database of POINTSMAN_DATABASE_URL to the newest schema."""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from controlplane import keys
from controlplane.errors import ControlPlaneError
from controlplane.settings import read_settings
from storage.engine import connect
from storage.migrate import SchemaError, migrate
from storage.reach import UnreachableError, check_database


def main(argv: Sequence[str] | None = None) -> int:
    """Migrate; the first time, print the first admin key, this once."""
    parser = argparse.ArgumentParser(prog="pointsman migrate", description=__doc__)
    parser.parse_args(argv)
    try:
        return _migrate()
    except (ControlPlaneError, SchemaError, UnreachableError) as error:
        print(f"pointsman migrate: {error}", file=sys.stderr)
        return 1


def _migrate() -> int:
    settings = read_settings()
    if settings.database_url is None:
        print(
            "pointsman migrate: set POINTSMAN_DATABASE_URL; the embedded database is migrated by "
            "`pointsman up`",
            file=sys.stderr,
        )
        return 2
    url = settings.database_url.get_secret_value()
    check_database(url)
    migrate(url)
    engine = connect(url, pool_size=1)
    try:
        with engine.begin() as connection:
            first = keys.first_admin(connection, datetime.now(UTC))
    finally:
        engine.dispose()
    print("migrated" if first is None else f"migrated; admin key, shown this once: {first.token}")
    return os.EX_OK
