"""A stage's decisions are read by indexes of their own, a variant and a share of its units."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from learners.ids import ENTROPY_BYTES, uuid7
from storage import policies, stages
from storage.policies import StoredPolicy
from storage.stages import Asked, Span, StageRow
from tests.controlplane.learning_world import World

NOW = datetime(2026, 1, 5, tzinfo=UTC)
ROWS, EVERY = 20_000, 100
"""Decisions of a stage; each hundredth is the canary's, and each tenth of all a retry."""

FILL = """
INSERT INTO decisions (decision_id, project_id, policy_id, version, serial, digest, at, context,
                       eligible, distribution, action, propensity, mode, retry_of, received_at,
                       split, variant, unit)
SELECT CAST(left(CAST(:first AS text), 24) || lpad(to_hex(n), 12, '0') AS uuid), :project, :policy,
       1 + CAST(n % :every = 0 AS int), 5, 'd', :now, '{}', '{a}', '{1}', 'a', 1,
       CASE WHEN n % 10 = 1 THEN 'retry' ELSE 'policy' END, NULL, :now, 'canary',
       CASE WHEN n % :every = 0 THEN 'canary' ELSE 'control' END,
       left(encode(sha256(convert_to(CAST(n AS text), 'UTF8')), 'hex'), 16)
FROM generate_series(1, :rows) AS n
"""

_SCANS = """
SELECT sum(idx_scan) FROM pg_stat_user_indexes i JOIN pg_inherits h ON h.inhrelid = i.indexrelid
WHERE h.inhparent = CAST('ix_decisions_canary' AS regclass)
"""


@pytest.fixture
def policy(engine: sa.Engine) -> StoredPolicy:
    """With a stage in the log."""
    world = World(engine)
    given = {
        "first": uuid7(NOW, bytes(ENTROPY_BYTES)), "project": world.project_id,
        "policy": world.policy.id, "every": EVERY, "now": NOW, "rows": ROWS,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(sa.text(FILL), given)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE decisions"))
    with engine.connect() as connection:
        return policies.get_policy(connection, world.policy.id)


def read(
    connection: sa.Connection, policy: StoredPolicy, variant: str, share: float
) -> list[StageRow]:
    span = Span(5, NOW, ROWS)
    return stages.of_split(
        connection, policy, span, Asked(1), split="canary", variant=variant, share=share
    )


def test_a_canary_and_an_eighth_of_its_control_are_read_by_their_own_index(
    engine: sa.Engine, policy: StoredPolicy
) -> None:
    for variant, share in (("canary", 1.0), ("control", 0.1)):
        with engine.connect() as connection:
            before = scans(connection)
            rows = read(connection, policy, variant, share)
            for _ in range(6):  # the driver prepares what it is given often
                assert read(connection, policy, variant, share) == rows
            assert scans(connection) >= before + 7, variant
        assert {row.variant for row in rows} == {variant}
        assert [row.decision_id for row in rows] == sorted(
            (row.decision_id for row in rows), reverse=True
        )


def scans(connection: sa.Connection) -> int:
    """Of the canary's index, in all partitions."""
    connection.rollback()  # what this session did is counted when its transaction ends
    connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    connection.rollback()
    return int(connection.scalar(sa.text(_SCANS)) or 0)


def test_a_share_is_of_the_units_and_a_smaller_one_is_part_of_a_larger(
    engine: sa.Engine, policy: StoredPolicy
) -> None:
    with engine.connect() as connection:
        canary = read(connection, policy, "canary", 1.0)
        every, half, tenth = (read(connection, policy, "control", s) for s in (1.0, 0.5, 0.1))
    assert (len(canary), len(every)) == (ROWS // EVERY, ROWS - ROWS // EVERY)
    assert len(half) == pytest.approx(len(every) / 2, rel=0.05)
    assert len(tenth) == pytest.approx(len(every) / 10, rel=0.1)
    assert {row.decision_id for row in tenth} < {row.decision_id for row in half}


def test_a_retry_is_told_from_a_first_choice(engine: sa.Engine, policy: StoredPolicy) -> None:
    with engine.connect() as connection:
        rows = read(connection, policy, "control", 1.0)
    assert sum(row.again for row in rows) == ROWS // 10
