import gc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from controlplane.round_log import RoundLog, preferences
from learners.features import Feature, Schema
from learners.interactions import arrange, digest, encode
from learners.records import Context, Interaction
from learners.rewards import RewardFunction, Term

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ARMS = ("a", "b", "c")
SCHEMA = Schema(
    (
        Feature("chars", "number", mean=5.0, scale=2.0),
        Feature("domain", "category", values=("code", "law")),
        Feature("terms", "vector", size=3),
    )
)
OTHER = Schema((Feature("code", "flag"),))
REWARD = RewardFunction((Term("score"), Term("cost_usd", -20.0, default=0.01)))


def log(n: int, seed: int = 0) -> list[Interaction]:
    """Rows at positions with gaps; some have no cost, some an arm that has left, some no domain."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        values = {"score": float(random.random())}
        if random.random() < 0.7:
            values["cost_usd"] = float(random.random()) / 100
        context = {"chars": float(random.normal()), "terms": random.normal(size=3).tolist()}
        if random.random() < 0.5:
            context |= {"domain": "law", "code": True, "preference.cost": 2.0}
        reward = REWARD.evaluate(values)
        assert reward is not None
        rows.append(
            Interaction(
                decision_id=str(i),
                at=T0 + timedelta(seconds=i),
                context=context,
                eligible=("b", "a", "gone") if i % 3 else ("c", "gone", "a", "b"),
                action=str(random.choice(["a", "b", "gone"])),
                propensity=0.25,
                reward=reward,
                position=3 * i + 1,
                values=values,
                episode_id=None if i % 2 else f"episode {i // 4}",
                source=None if i % 5 else "key:app",
            )
        )
    return rows


def batches(
    rows: list[Interaction], size: int
) -> Iterator[tuple[list[Interaction], list[Context]]]:
    """As :func:`storage.log.stream` gives them."""
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        slim = [replace(row, context=preferences(row.context)) for row in part]
        yield slim, [row.context for row in part]


def test_what_was_encoded_as_it_came_has_the_digest_of_what_is_encoded_at_once():
    rows = log(200)
    read = RoundLog.read(batches(rows, 7), (SCHEMA, OTHER), limit=200)
    for part in (slice(0, 120), slice(120, None), slice(3, 150, 4), slice(0, 0)):
        for number, schema in enumerate((SCHEMA, OTHER)):
            ready = arrange(read.rows[part], read.encoded(read.rows[part], number), ARMS, REWARD)
            assert digest(ready) == digest(encode(rows[part], schema, ARMS, REWARD))


def test_rows_that_stand_twice_and_in_any_order_find_their_contexts():
    rows = log(30)
    read = RoundLog.read(batches(rows, 30), (SCHEMA, SCHEMA), limit=30)
    wanted = [4, 4, 29, 0, 7]
    x = SCHEMA.encode_all([rows[i].context for i in wanted])
    assert np.array_equal(read.encoded([read.rows[i] for i in wanted], 1), x)


def test_a_context_that_either_schema_cannot_take_is_left_out_and_counted():
    rows = log(10)
    bad = [{"chars": "many"}, {"code": "yes"}]
    odd = [
        Interaction(f"odd {i}", T0, context, ARMS, "a", 0.5, 0.0, position=2 + i)
        for i, context in enumerate(bad)
    ]
    mixed = [rows[0], *odd, *rows[1:]]
    read = RoundLog.read(batches(mixed, 4), (SCHEMA, OTHER), limit=12)
    assert read.misfits == 2
    assert [row.decision_id for row in read.rows] == [row.decision_id for row in rows]
    assert np.array_equal(read.x[0], SCHEMA.encode_all([row.context for row in rows]))
    assert np.array_equal(read.x[1], OTHER.encode_all([row.context for row in rows]))


def test_of_a_context_only_preferences_are_kept():
    rows = log(50)
    read = RoundLog.read(batches(rows, 50), (SCHEMA, OTHER), limit=50)
    asked = ["preference.cost" in row.context for row in rows]
    assert [dict(row.context) for row in read.rows] == [
        {"preference.cost": 2.0} if one else {} for one in asked
    ]


def test_the_collector_goes_on_after_a_log_that_breaks_off():
    def broken() -> Iterator[tuple[list[Interaction], list[Context]]]:
        yield from batches(log(10), 5)
        assert not gc.isenabled()
        raise RuntimeError("the server is gone")

    with pytest.raises(RuntimeError, match="gone"):
        RoundLog.read(broken(), (SCHEMA, OTHER), limit=20)
    assert gc.isenabled()
