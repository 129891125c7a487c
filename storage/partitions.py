"""Monthly partitions of the event tables, by the time inside their UUIDv7 keys."""

import re
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa

from storage.tables import PARTITIONED, metadata

MONTHS_AHEAD = 3
_PARTITION = re.compile(rf"({'|'.join(PARTITIONED)})_(default|\d{{6}})")


def ensure_partitions(connection: sa.Connection, now: datetime) -> list[str]:
    """Create the partitions of last month to three months ahead; returns the new ones' names.

    Rows outside of all months land in the default partition, so nothing is ever refused.
    """
    created = []
    wanted = [_shift(now, months) for months in range(-1, MONTHS_AHEAD + 1)]
    existing = set(
        connection.scalars(
            sa.text("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname ~ :name"),
            {"name": f"^({'|'.join(PARTITIONED)})_"},
        )
    )
    for table in PARTITIONED:
        for start in wanted:
            name = f"{table}_{start:%Y%m}"
            if name not in existing:
                _create(connection, table, name, start)
                created.append(name)
    return created


def _create(connection: sa.Connection, table: str, name: str, start: datetime) -> None:
    """Make a partition, with the rows that had to go to the default one for want of it."""
    key = next(iter(metadata.tables[table].primary_key)).name
    low, high = first_id(start), first_id(_shift(start, 1))
    strays = f"DELETE FROM {table}_default WHERE {key} >= '{low}' AND {key} < '{high}' RETURNING *"  # noqa: S608 -- names of ours
    for statement in (
        f"LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE",
        f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
        f"WITH strays AS ({strays}) INSERT INTO {name} SELECT * FROM strays",  # noqa: S608 -- names of ours
        f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')",
    ):
        connection.execute(sa.text(statement))


def is_partition(table: str) -> bool:
    """Whether a table is a partition of ours: the models name only what is partitioned."""
    return _PARTITION.fullmatch(table) is not None


def first_id(at: datetime) -> UUID:
    """The smallest UUID of the millisecond ``at``: a bound for a range of UUIDv7 keys."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def _shift(at: datetime, months: int) -> datetime:
    month = at.year * 12 + at.month - 1 + months
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
