"""A migrated database that one test after another gets empty, as a copy for each takes longer.

What a test changes beyond rows is not undone: the database is dropped then, and the next test gets
another copy.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import sqlalchemy as sa

KEPT = "alembic_version"

_ALONE = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
"""

_SHAPE = f"""
WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'),
relations AS (SELECT * FROM pg_class WHERE relnamespace IN (SELECT oid FROM ours)),
parts AS (
  SELECT concat_ws(' ', relnamespace, relname, relkind, reloptions,
                   pg_get_expr(relpartbound, oid)) AS part FROM relations
  UNION ALL
  SELECT concat_ws(' ', attrelid::regclass, attname, atttypid, attnotnull, attidentity,
                   (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
                    WHERE adrelid = attrelid AND adnum = attnum))
  FROM pg_attribute WHERE attrelid IN (SELECT oid FROM relations) AND attnum > 0
  UNION ALL
  SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE connamespace IN (SELECT oid FROM ours)
  UNION ALL
  SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL
  SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ours)
  UNION ALL
  SELECT version_num FROM {KEPT}
)
SELECT md5(string_agg(part, ';' ORDER BY part)) FROM parts
"""  # noqa: S608 — a constant

_TABLES = """
SELECT oid::regclass::text FROM pg_class
WHERE relkind IN ('r', 'p') AND NOT relispartition AND relname <> :kept
  AND relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)')
"""

_STEPPED = """
SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename)
FROM pg_sequences WHERE last_value IS NOT NULL
"""

Copy = Callable[[], AbstractContextManager[str]]


class Spare:
    """Lends one database at a time; ``copy`` makes one and drops it after its block."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._stack = ExitStack()
        self._url = ""
        self._shape = ""

    @contextmanager
    def lend(self) -> Iterator[str]:
        """The URL of a database without rows; whatever is connected to it afterwards is cut off."""
        if not self._url:
            self._url = self._stack.enter_context(self._copy())
            with alone(self._url) as connection:
                self._shape = shape(connection)
        try:
            yield self._url
        finally:
            if not self._emptied():
                self.drop()

    def drop(self) -> None:
        """Drop the database; the next test gets another."""
        self._url = ""
        self._stack.close()

    def _emptied(self) -> bool:
        """Whether the database is as it was before the test."""
        try:
            with alone(self._url) as connection:
                if shape(connection) != self._shape:
                    return False
                empty(connection)
        except sa.exc.ProgrammingError:  # a test of migrations has left not even their table
            return False
        return True


@contextmanager
def alone(url: str) -> Iterator[sa.Connection]:
    """The one connection to a database."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(_ALONE).all()
        yield connection


def shape(connection: sa.Connection) -> str:
    """A digest of all but the rows."""
    return str(connection.exec_driver_sql(_SHAPE).scalar_one())


def empty(connection: sa.Connection) -> None:
    """Delete the rows; only where there are some, as a file is made anew for each table."""
    tables = connection.execute(sa.text(_TABLES), {"kept": KEPT}).scalars().all()
    held = " UNION ALL ".join(
        f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})"  # noqa: S608 — the catalogue's names
        for table in tables
    )
    filled = connection.exec_driver_sql(held).scalars().all()
    if filled:
        connection.exec_driver_sql(f"TRUNCATE {', '.join(filled)} CASCADE")
    for sequence in connection.exec_driver_sql(_STEPPED).scalars().all():
        connection.exec_driver_sql(f"ALTER SEQUENCE {sequence} RESTART")
