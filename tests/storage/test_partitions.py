from datetime import UTC, datetime
from uuid import UUID

import pytest
import sqlalchemy as sa

from storage.partitions import ensure_partitions, first_id
from storage.tables import PARTITIONED
from tests.ground import WAIT_S, Ground, lay, new_id

JUNE = datetime(2031, 6, 15, 12, tzinfo=UTC)
JULY = datetime(2031, 7, 1, tzinfo=UTC)


@pytest.fixture
def summer(engine: sa.Engine) -> Ground:
    """A database of its own, with the partitions around June 2031."""
    with engine.begin() as connection:
        ensure_partitions(connection, JUNE)
    return lay(engine)


def fill(ground: Ground, at: datetime) -> UUID:
    """One row in each partitioned table; feedback is filed under the time at which it came."""
    decision_id = new_id(at)
    ground.decide(decision_id, now=at, at=at.isoformat())
    ground.outcome(decision_id, now=at, at=at.isoformat())
    ground.say(decision_id, True, now=at)
    ground.settle(datetime.fromtimestamp(at.timestamp() + WAIT_S + 10, UTC))
    return decision_id


def places(ground: Ground) -> dict[str, list[str]]:
    """For each partitioned table, where its rows are."""
    with ground.engine.connect() as connection:
        return {
            table: sorted(
                connection.scalars(sa.text(f"SELECT tableoid::regclass::text FROM {table}"))  # noqa: S608
            )
            for table in PARTITIONED
        }


@pytest.mark.parametrize(
    ("at", "month"),
    [
        (JUNE, "203106"),
        (datetime.fromtimestamp(JULY.timestamp() - 0.001, UTC), "203106"),
        (JULY, "203107"),
        (datetime(2031, 5, 1, tzinfo=UTC), "203105"),
        (datetime(2031, 4, 30, 23, tzinfo=UTC), "default"),
        (datetime(2031, 10, 1, tzinfo=UTC), "default"),
        (datetime(1980, 1, 1, tzinfo=UTC), "default"),
    ],
)
def test_a_row_lands_in_the_month_of_its_key_or_in_the_default(
    summer: Ground, at: datetime, month: str
):
    decision_id = fill(summer, at)
    assert places(summer) == {table: [f"{table}_{month}"] for table in PARTITIONED}
    assert summer.rewards() == {decision_id: 1.0}


def test_making_partitions_again_is_a_no_op(summer: Ground):
    with summer.engine.begin() as connection:
        assert ensure_partitions(connection, JUNE) == []
        created = ensure_partitions(connection, JULY)
    assert created == [f"{table}_203110" for table in PARTITIONED]


def test_a_month_that_was_not_prepared_in_time_is_taken_out_of_the_default(summer: Ground):
    october = datetime(2031, 10, 1, tzinfo=UTC)
    november = datetime(2031, 11, 1, tzinfo=UTC)
    ids = [fill(summer, october), fill(summer, november), fill(summer, JUNE)]
    before = summer.log()
    with summer.engine.begin() as connection:
        ensure_partitions(connection, JULY)
    assert places(summer)["decisions"] == [
        "decisions_203106",
        "decisions_203110",
        "decisions_default",
    ]
    assert summer.log() == before
    summer.say(ids[0], False, now=november)
    summer.settle(november)
    assert summer.rewards() == {ids[0]: 0.0, ids[1]: 1.0, ids[2]: 1.0}
    assert fill(summer, october) in summer.rewards()
    assert places(summer)["decisions"].count("decisions_203110") == 2


def test_a_partition_has_the_indexes_of_its_table(summer: Ground):
    def indexes(table: str) -> list[list[str | None]]:
        found = sa.inspect(summer.engine).get_indexes(table)
        return sorted(index["column_names"] for index in found)

    for table in PARTITIONED:
        assert indexes(f"{table}_203106") == indexes(table)
        key = sa.inspect(summer.engine).get_pk_constraint(f"{table}_203106")
        assert key["constrained_columns"][0].endswith("_id")


def test_a_months_bounds_are_those_of_its_ids():
    assert first_id(JULY) <= new_id(JULY)
    assert new_id(datetime.fromtimestamp(JULY.timestamp() - 0.001, UTC)) < first_id(JULY)


def test_a_query_for_one_id_looks_into_one_partition(summer: Ground):
    query = sa.text("EXPLAIN SELECT * FROM decisions WHERE decision_id = :i")
    with summer.engine.connect() as connection:
        plan = "\n".join(connection.scalars(query, {"i": new_id(JUNE)}))
    assert "decisions_203106" in plan
    assert "decisions_203107" not in plan
    assert "decisions_default" not in plan
