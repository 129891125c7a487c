"""`pointsman migrate`: bring the database of POINTSMAN_DATABASE_URL to the newest schema."""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from controlplane import keys
from controlplane.settings import Settings
from storage.engine import connect
from storage.migrate import SchemaError, migrate


def main(argv: Sequence[str] | None = None) -> int:
    """Migrate; the first time, print the first admin key, this once."""
    parser = argparse.ArgumentParser(prog="pointsman migrate", description=__doc__)
    parser.parse_args(argv)
    settings = Settings()
    if settings.database_url is None:
        print(
            "pointsman migrate: set POINTSMAN_DATABASE_URL; the embedded database is migrated by "
            "`pointsman up`",
            file=sys.stderr,
        )
        return 2
    url = settings.database_url.get_secret_value()
    try:
        migrate(url)
    except SchemaError as error:
        print(f"pointsman migrate: {error}", file=sys.stderr)
        return 1
    engine = connect(url, pool_size=1)
    try:
        with engine.begin() as connection:
            first = keys.first_admin(connection, datetime.now(UTC))
    finally:
        engine.dispose()
    print("migrated" if first is None else f"migrated; admin key, shown this once: {first.token}")
    return os.EX_OK
