from dataclasses import replace

import numpy as np
import pytest

from learners import always_large, always_small
from learners.contract import Reading, Spec
from learners.records import Card

CARDS = (Card(1.0, 2.0), Card(0.1, 0.2), Card(5.0, 9.0))
READING = Reading(("score", "cost_usd"), (1.0, -1.0))


@pytest.mark.parametrize(("learner", "arm"), [(always_small, 1), (always_large, 2)])
def test_before_any_log_the_prices_on_the_cards_decide(schema, log_of, learner, arm):
    log = log_of(20, 3)
    scorer = learner.freeze(learner.init(Spec(schema, log.arms, {"floor": 0.0}, cards=CARDS)))
    spread = scorer.distribution(log.x, np.ones((20, 3), bool))
    assert (spread[:, arm] == 1.0).all()


@pytest.mark.parametrize(("learner", "arm"), [(always_small, 2), (always_large, 0)])
def test_what_calls_cost_overrules_the_cards_and_rewards_do_not_matter(
    schema, log_of, learner, arm
):
    log = log_of(200, 3)
    cost = np.array([0.9, 0.5, 0.1])[log.action]
    spec = Spec(schema, log.arms, {"floor": 0.0}, cards=CARDS, reading=READING)
    for score in (cost, -cost):
        told = replace(log, parts=np.column_stack([score, cost]), reward=score - cost)
        scorer = learner.freeze(learner.learn(learner.init(spec), told))
        spread = scorer.distribution(log.x, np.ones((200, 3), bool))
        assert (spread[:, arm] == 1.0).all()
