from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from learners.records import Interaction
from storage import interactions, log
from tests.ground import Ground, later, new_id

ODD = ["\\N", "", "tab\tline\nreturn\r", 'quote " back \\ slash', "{a,b}", "é∑😀", "\\\\n", "null"]


def fill(ground: Ground, ids: list[UUID]) -> None:
    rows = [(one, float(n) / 7, '{"good": 0.1}', "{}") for n, one in enumerate(ids)]
    with ground.engine.begin() as connection:
        interactions.write(connection, ground.policy_id, rows, reward_version=1, now=later(1))


def read(ground: Ground, limit: int = 10_000) -> list[list[Interaction]]:
    with ground.engine.connect() as connection:
        batches = log.stream(connection, ground.policy_id, after=0, upto=10_000, limit=limit)
        return [rows for rows, _ in batches]


@pytest.mark.parametrize("text", ODD)
def test_any_text_comes_back_as_it_was_written(ground: Ground, text: str):
    one = new_id()
    fields: dict[str, Any] = {
        "context": {"domain": text, "of": [0.1, -3e-9], "number": 1 / 3, "whole": 7, "flag": False},
        "eligible": [text, "other"],
        "distribution": [0.75, 0.25],
        "action": text,
        "episode_id": text,
        "session_id": text,
    }
    ground.decide(one, context=fields["context"])
    change = sa.text(
        "UPDATE decisions SET action = :action, eligible = :eligible, episode_id = :episode_id, "
        "session_id = :session_id WHERE decision_id = :one"
    )
    with ground.engine.begin() as connection:
        connection.execute(change, {"one": one, **fields})
    fill(ground, [one])
    ((row,),) = read(ground)
    assert (row.decision_id, row.action, row.episode_id) == (str(one), text, text)
    assert row.session_id == text
    assert row.eligible == (text, "other")
    assert row.context == fields["context"]
    assert (row.reward, row.position, row.values) == (0.0, 1, {"good": 0.1})


def test_times_and_what_is_not_there_come_back_too(ground: Ground):
    one, at = new_id(), datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    ground.decide(one, at=at.isoformat())
    fill(ground, [one])
    ((row,),) = read(ground)
    assert row.at == at
    assert row.at.utcoffset() is not None
    assert (row.episode_id, row.session_id, row.source, row.said) == (None, None, None, {})


def test_a_long_log_comes_in_batches_in_its_order(ground: Ground):
    ids = [new_id() for _ in range(log.BATCH + 3)]
    for start in range(0, len(ids), 100):
        ground.decide(*ids[start : start + 100])
    fill(ground, ids)
    found = read(ground)
    assert [len(batch) for batch in found] == [log.BATCH, 3]
    assert [UUID(row.decision_id) for batch in found for row in batch] == ids
    assert [row.reward for row in found[1]] == [float(n) / 7 for n in range(log.BATCH, len(ids))]
    assert [len(batch) for batch in read(ground, limit=5)] == [5]


def test_a_reader_that_stops_early_leaves_its_connection_usable(ground: Ground):
    ids = [new_id() for _ in range(2 * log.BATCH)]
    ground.decide(*ids)
    fill(ground, ids)
    with ground.engine.connect() as connection:
        batches = log.stream(connection, ground.policy_id, after=0, upto=10_000, limit=10_000)
        assert len(next(batches)[0]) == log.BATCH
        batches.close()
        connection.rollback()
        assert connection.scalar(sa.text("SELECT 1")) == 1


def test_a_row_holds_what_is_kept_of_its_context(ground: Ground):
    ids = [new_id() for _ in range(3)]
    ground.decide(*ids)
    fill(ground, ids)
    with ground.engine.connect() as connection:
        batches = log.stream(
            connection, ground.policy_id, after=0, upto=10, limit=10,
            kept=lambda context: {"domain": context["domain"]},
        )  # fmt: skip
        ((rows, contexts),) = batches
    assert [row.context for row in rows] == [{"domain": "code"}] * 3
    assert [set(context) for context in contexts] == [
        {"tokens", "domain", "urgent", "embedding"}
    ] * 3
