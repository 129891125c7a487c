"""`pointsman keys`: create, list and revoke API keys in the database itself."""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa

from controlplane import keys
from controlplane.errors import ControlPlaneError, NotFoundError
from controlplane.installation import database_of
from controlplane.settings import read_settings
from learners.ids import ENTROPY_BYTES, uuid7
from storage import projects
from storage.embedded import EmbeddedError
from storage.engine import connect
from storage.migrate import SchemaError, require


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the key commands."""
    given = _parser().parse_args(argv)
    try:
        with database_of(read_settings()) as url:
            return _run(given, url)
    except (ControlPlaneError, EmbeddedError, SchemaError) as error:
        print(f"pointsman keys: {error}", file=sys.stderr)
        return 1
    except sa.exc.OperationalError as error:
        print(f"pointsman keys: the database does not answer: {error.orig}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman keys", description=__doc__)
    parser.add_argument(
        "--project",
        default=keys.DEFAULT_PROJECT,
        help=f"whose keys; default: {keys.DEFAULT_PROJECT}; `create` makes a new one",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="print a new key, this once")
    create.add_argument("--name", required=True, help="who uses it: its feedback bears this name")
    create.add_argument("--scopes", required=True, help=f"comma separated: {','.join(keys.SCOPES)}")
    commands.add_parser("list", help="the project's keys, revoked ones too; no token is shown")
    revoke = commands.add_parser("revoke", help="end a key at once and for good, by its id")
    revoke.add_argument("id", type=UUID, help="as `pointsman keys list` shows it")
    return parser


def _run(given: argparse.Namespace, url: str) -> int:
    engine = connect(url, pool_size=1)
    now = datetime.now(UTC)
    try:
        with engine.begin() as connection:
            require(connection)
            print(_perform(connection, given, _project(connection, given, now), now))
    finally:
        engine.dispose()
    return 0


def _project(connection: sa.Connection, given: argparse.Namespace, now: datetime) -> UUID:
    """The project; a first key makes it, where listing and revoking would only hide a typo."""
    if given.command == "create":
        return projects.ensure_project(
            connection, uuid7(now, os.urandom(ENTROPY_BYTES)), given.project, now
        )
    found = projects.find_project(connection, given.project)
    if found is None:
        raise NotFoundError(f"project {given.project!r} does not exist: `create` makes one")
    return found


def _perform(
    connection: sa.Connection, given: argparse.Namespace, project: UUID, now: datetime
) -> str:
    if given.command == "create":
        scopes = [scope.strip() for scope in given.scopes.split(",")]
        minted = keys.mint(connection, project, name=given.name, scopes=scopes, now=now)
        return minted.token
    if given.command == "revoke":
        keys.revoke(connection, project, given.id, now)
        return f"revoked {given.id}"
    return _table(projects.list_keys(connection, project))


def _table(rows: Sequence[projects.StoredKey]) -> str:
    """The keys under a header, in columns; a name comes last, as it may be long."""
    cells = [("id", "token", "scopes", "name")]
    for key in rows:
        name = f"{key.name}{'  (revoked)' if key.revoked_at else ''}"
        cells.append((str(key.id), f"pm_{key.prefix}_…", ",".join(key.scopes), name))
    widths = [max(len(row[i]) for row in cells) for i in range(3)]
    return "\n".join(
        "  ".join((*(f"{row[i]:{widths[i]}}" for i in range(3)), row[3])) for row in cells
    )
