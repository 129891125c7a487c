import numpy as np
import pytest

from feedback.metrics import OUTCOMES
from learners.contract import Reading, Spec
from learners.episodes import MEASURED, columns_of, episode_schema, number_of, unroll
from learners.errors import SpecError
from learners.interactions import Interactions

ARMS = ("a", "b")
SCHEMA = episode_schema(ARMS, ("code", "law"), max_turns=4, budget_usd=2.0)


def log_of(episode, at, parts, mix=(1.0, -0.5), offset=0.0) -> Interactions:
    n = len(episode)
    x = np.zeros((n, SCHEMA.dimension))
    x[:, 0], x[:, 1] = 1.0, np.arange(n)
    parts = np.array(parts, dtype=float)
    return Interactions(
        arms=ARMS,
        x=x,
        eligible=np.ones((n, 2), bool),
        action=np.zeros(n, np.int64),
        propensity=np.ones(n),
        reward=parts @ np.array(mix) + offset,
        weight=np.ones(n),
        at=np.array(at, dtype=float),
        parts=parts,
        episode=np.array(episode, dtype=np.int64),
    )


def spec_of(names=("solved", "cost_usd"), mix=(1.0, -0.5), offset=0.0) -> Spec:
    return Spec(SCHEMA, ARMS, reading=Reading(names, mix, offset))


def test_what_the_edge_measures_is_named_here_too():
    assert MEASURED == OUTCOMES


def test_an_outcome_is_counted_once_and_a_cost_at_each_step():
    log = log_of([4, 4, 4], [1, 2, 3], [[1, 0.2], [1, 0.4], [1, 0.6]], offset=3.0)
    steps = unroll(log, spec_of(offset=3.0))
    assert steps.reward == pytest.approx([-0.1, -0.2, 1 - 0.3 + 3])
    assert steps.to_go == pytest.approx([3.4, 3.5, 3.7])
    assert steps.last.tolist() == [False, False, True]
    assert steps.longest == 3


def test_rows_are_put_in_the_order_of_time_within_each_episode():
    log = log_of([1, 0, 1, -1, 0], [9, 2, 8, 5, 1], [[0, i] for i in range(5)])
    steps = unroll(log, spec_of())
    assert steps.log.x[:, 1].tolist() == [4, 1, 2, 0, 3]
    assert steps.step.tolist() == [0, 1, 0, 1, 0]
    assert steps.last.tolist() == [False, True, False, True, True]


def test_rows_without_an_episode_are_each_their_own():
    log = log_of([-1, -1, -1], [0, 0, 0], [[1, 0.5], [0, 0.5], [1, 0.1]])
    steps = unroll(log, spec_of())
    assert steps.last.all()
    assert steps.to_go == pytest.approx(log.reward)


def test_where_the_parts_cannot_be_told_the_reward_is_the_outcome():
    log = log_of([0, 0], [0, 1], [[0.7], [0.7]], mix=(1.0,))
    for spec in (spec_of(), spec_of(("reward",), (1.0,))):
        assert unroll(log, spec).reward.tolist() == [0.0, 0.7]
    assert unroll(log, spec_of(("cost_usd",), (1.0,))).reward.tolist() == [0.7, 0.7]


def test_the_parts_of_the_outcome_may_be_named():
    log = log_of([0, 0], [0, 1], [[1, 0.2], [1, 0.4]])
    steps = unroll(log, spec_of(), terminal="cost_usd")
    assert steps.reward == pytest.approx([1.0, 0.8])
    with pytest.raises(SpecError, match="'other' is no part"):
        unroll(log, spec_of(), terminal="solved, other")


def test_later_rewards_are_discounted():
    log = log_of([0, 0, 0], [0, 1, 2], [[1, 0.0]] * 3)
    assert unroll(log, spec_of(), discount=0.5).to_go.tolist() == [0.25, 0.5, 1.0]


def test_an_empty_log_has_no_steps():
    log = log_of([0], [0], [[1, 0.0]]).rows(slice(0, 0))
    assert unroll(log, spec_of()).longest == 0


def test_a_numbers_mean_and_scale_are_undone():
    x = SCHEMA.encode_all([{"spent_usd": 1.5, "turn": 3, "domain": "law"}])
    found = number_of(SCHEMA, "spent_usd", x)
    assert found is not None
    assert found.tolist() == [1.5]
    assert number_of(SCHEMA, "domain", x) is None
    assert x[0, columns_of(SCHEMA, "domain")].tolist() == [0.0, 1.0]
    assert columns_of(SCHEMA, "nothing") == slice(0, 0)
