"""Which keys sign this installation's bundles: what programs on several hosts agree on."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.tables import signers


def read_signers(connection: sa.Connection) -> set[str]:
    """The ids of the keys that sign; nobody else changes them until the commit."""
    connection.execute(sa.text("LOCK TABLE signers IN SHARE ROW EXCLUSIVE MODE"))
    return set(connection.scalars(sa.select(signers.c.key_id)))


def replace_signers(connection: sa.Connection, key_ids: Sequence[str], now: datetime) -> None:
    """Have these keys sign from now on, and no others."""
    connection.execute(sa.delete(signers).where(signers.c.key_id.not_in(key_ids)))
    connection.execute(
        insert(signers).on_conflict_do_nothing(),
        [{"key_id": one, "created_at": now} for one in key_ids],
    )
