"""Monthly partitions of the event tables, by the time inside their UUIDv7 keys."""

import re
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa

from storage.tables import PARTITIONED

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
            if name in existing:
                continue
            connection.execute(
                sa.text(
                    f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table} "
                    f"FOR VALUES FROM ('{first_id(start)}') TO ('{first_id(_shift(start, 1))}')"
                )
            )
            created.append(name)
    return created


def is_partition(table: str) -> bool:
    """Whether a table is a partition of ours: the models name only what is partitioned."""
    return _PARTITION.fullmatch(table) is not None


def first_id(at: datetime) -> UUID:
    """The smallest UUID of the millisecond ``at``: a bound for a range of UUIDv7 keys."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def _shift(at: datetime, months: int) -> datetime:
    month = at.year * 12 + at.month - 1 + months
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
