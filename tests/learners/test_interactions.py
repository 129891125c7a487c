from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from learners.errors import InteractionError
from learners.features import Feature, Schema
from learners.interactions import COLUMNS, Interactions, clusters_of, digest, encode, joined
from learners.records import MAX_ABS_REWARD, Card, Interaction

SCHEMA = Schema((Feature("chars", "number"),))
ROW = Interaction(
    decision_id="d1",
    at=datetime(2026, 11, 21, tzinfo=UTC),
    context={"chars": 2.0},
    eligible=("a", "b"),
    action="b",
    propensity=0.25,
    reward=0.5,
    weight=2.0,
)


def test_records_become_columns_in_the_order_of_the_arms():
    found = encode([ROW, replace(ROW, action="a", reward=1.0)], SCHEMA, ("c", "b", "a"))
    assert found.action.tolist() == [1, 2]
    assert found.eligible.tolist() == [[False, True, True]] * 2
    assert found.x.tolist() == [[1, 2], [1, 2]]
    assert found.reward.tolist() == [0.5, 1.0]
    assert found.propensity.tolist() == [0.25, 0.25]
    assert found.weight.tolist() == [2, 2]


def test_what_a_retired_arm_earned_is_left_out():
    rows = [ROW, replace(ROW, eligible=("a", "b", "old"), action="old")]
    assert encode(rows, SCHEMA, ("a", "b")).action.tolist() == [1]
    assert encode(rows[:1], SCHEMA, ("b",)).eligible.tolist() == [[True]]


def test_rows_of_one_session_or_episode_belong_together_also_by_way_of_others():
    units = [
        ("s", None),
        (None, None),
        (None, "e"),
        ("t", "e"),
        ("t", None),
        ("u", "f"),
        (None, None),
    ]
    rows = [replace(ROW, session_id=session, episode_id=episode) for session, episode in units]
    found = clusters_of(rows)
    assert found is not None
    assert found.tolist() == [0, -1, 2, 2, 2, 5, -1]
    chain = [
        replace(ROW, session_id=str(i // 2), episode_id=str((i + 1) // 2)) for i in range(4_000)
    ]
    found = clusters_of(chain)
    assert found is not None
    assert set(found.tolist()) == {0}
    assert clusters_of([ROW, ROW]) is None
    assert clusters_of([]) is None


def test_no_records_become_no_rows():
    found = encode([], SCHEMA, ("a",))
    assert (len(found), found.x.shape) == (0, (0, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"propensity": 0.0}, "propensity=0.0"),
        ({"propensity": 1.1}, "propensity=1.1"),
        ({"propensity": float("nan")}, "propensity=nan"),
        ({"reward": float("nan")}, "reward=nan"),
        ({"reward": 2 * MAX_ABS_REWARD}, "reward=2000000.0"),
        ({"reward": -2 * MAX_ABS_REWARD}, "reward=-2000000.0"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"weight": float("inf")}, "weight=inf"),
        ({"action": "c"}, "'c' is not among"),
        ({"at": datetime(2026, 11, 21)}, "no time zone"),  # noqa: DTZ001 — naive on purpose
    ],
)
def test_a_record_that_would_poison_a_learner_is_refused_by_its_decision(change, said):
    with pytest.raises(InteractionError, match="d1") as error:
        replace(ROW, **change)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"action": np.array([0, 5])}, "row 1: action=5"),
        ({"action": np.array([-1, 0])}, "row 0: action=-1"),
        ({"propensity": np.array([0.5, 0.0])}, "row 1: propensity"),
        ({"weight": np.array([1.0, np.nan])}, "row 1: weight"),
        ({"reward": np.zeros(3)}, "reward has shape"),
        ({"x": np.zeros(2)}, "x has shape"),
        ({"eligible": np.ones((2, 2), dtype=np.bool_)}, "eligible"),
        ({"eligible": np.zeros((2, 3), dtype=np.bool_)}, "not among its eligible"),
    ],
)
def test_columns_that_would_poison_a_learner_are_refused(log_of, change, said):
    with pytest.raises(InteractionError, match=said):
        replace(log_of(2, 3), **change)


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_that_is_none_is_refused(price):
    with pytest.raises(ValueError, match="usd_per_mtok_out"):
        Card(usd_per_mtok_out=price)
    with pytest.raises(ValueError, match="joules_per_token_in"):
        Card(joules_per_token_in=price)


@pytest.mark.parametrize(
    "name", ["x", "eligible", "action", "propensity", "reward", "weight", "arms", "order", "length"]
)
def test_a_digest_changes_with_all_that_a_learner_reads(log_of, name):
    log = log_of(20, 3)
    rows = np.arange(20)
    changed: Interactions
    if name == "order":
        changed = log.rows(rows[::-1])
    elif name == "length":
        changed = log.rows(rows[:-1])
    elif name == "arms":
        changed = replace(log, arms=log.arms[::-1])
    else:
        column = getattr(log, name).copy()
        if name == "eligible":
            column[0] = True
            column[1] = False
            column[1, log.action[1]] = True
        elif name == "action":
            column[0] = np.flatnonzero(log.eligible[0])[-1]
            column[0] = column[0] if column[0] != log.action[0] else np.argmax(log.eligible[0])
        else:
            column.flat[0] = np.nextafter(column.flat[0], 0)
        assert not np.array_equal(column, getattr(log, name))
        changed = replace(log, **{name: column})
    assert digest(changed) != digest(log)


def test_the_same_log_has_the_same_digest_however_it_lies_in_memory(log_of):
    log = log_of(20, 3)
    other = Interactions(
        log.arms,
        np.asfortranarray(log.x),
        np.asfortranarray(log.eligible),
        log.action.astype(">i8"),
        log.propensity.astype(">f8"),
        log.reward[::-1][::-1],
        log.weight,
    )
    assert digest(other) == digest(log)
    assert digest(log.rows(slice(0, 0))) == digest(log.rows(slice(5, 5)))


def test_joined_pieces_are_the_log_that_was_cut(log_of):
    log = log_of(40, 3)
    pieces = [log.rows(slice(a, b)) for a, b in ((0, 7), (7, 7), (7, 30), (30, 40))]
    assert digest(joined(pieces)) == digest(log)
    assert digest(joined([log])) == digest(log)


def test_nothing_joined_with_rows_is_those_rows_whatever_columns_it_lacks(log_of):
    log = log_of(5, 3)
    none = Interactions(
        arms=log.arms,
        x=np.zeros((0, log.x.shape[1])),
        eligible=np.zeros((0, 3), dtype=np.bool_),
        action=np.zeros(0, dtype=np.int64),
        propensity=np.zeros(0),
        reward=np.zeros(0),
        weight=np.zeros(0),
    )
    both = joined([none, log, none])
    assert all(np.array_equal(getattr(both, name), getattr(log, name)) for name in COLUMNS)
    assert len(joined([none, none])) == 0


def test_pieces_that_do_not_fit_together_are_refused(log_of):
    log = log_of(5, 3)
    with pytest.raises(InteractionError, match="over other arms"):
        joined([log, replace(log, arms=log.arms[::-1])])
    with pytest.raises(InteractionError, match="do not fit together"):
        joined([log, replace(log, x=log.x[:, :-1])])
    with pytest.raises(InteractionError, match="do not fit together"):
        joined([log, replace(log, parts=np.zeros((5, 2)))])
