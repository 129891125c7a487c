from dataclasses import replace

import numpy as np
import pytest

from learners import multi_objective, paced
from learners.contract import Reading, Spec
from learners.errors import InteractionError, SpecError
from learners.interactions import Interactions
from learners.scorers.mixed import Mixed

READING = Reading(("score", "cost_usd"), (1.0, -1e-6))
PRICES = np.array([0.1, 1.0, 5.0])
ARMS = ("small", "middle", "large")


def outcomes(x: np.ndarray, seed: int, *, drift: bool):
    """Scores and costs ``(n, 3)``; with ``drift`` the large arm's price triples half way."""
    random = np.random.default_rng(seed)
    hard = x[:, 4:5]
    score = np.array([0.5, 0.6, 0.8]) + hard * np.array([-0.3, 0.0, 0.1])
    score += random.normal(size=score.shape) / 10
    cost = PRICES * np.exp(0.5 * random.normal(size=score.shape))
    if drift:
        cost[len(x) // 2 :, 2] *= 3.0
    return score, cost


def simulate(spec, x, score, cost, *, late=0, refresh=64, seed=0):
    """The mean spend and score of a stream, and the last state; feedback is ``late`` requests."""
    random = np.random.default_rng(seed)
    n, rows = len(x), np.arange(len(x))
    action, propensity = np.zeros(n, dtype=np.int64), np.ones(n)
    state = paced.init(spec)
    learnt = 0
    for start in range(0, n, refresh):
        now = rows[start : start + refresh]
        spread = paced.freeze(state).distribution(x[now], np.ones((len(now), 3), bool))
        drawn = spread.cumsum(axis=1) < random.random((len(now), 1))
        action[now] = np.minimum(drawn.sum(axis=1), 2)
        propensity[now] = spread[np.arange(len(now)), action[now]]
        told = rows[learnt : max(int(now[-1]) + 1 - late, learnt)]
        state = paced.learn(state, log_of(spec, x, score, cost, (told, action, propensity)))
        learnt += len(told)
    return cost[rows, action].mean(), score[rows, action].mean(), state


def log_of(spec, x, score, cost, served):
    told, action, propensity = served
    parts = np.column_stack([score[told, action[told]], cost[told, action[told]]])
    return Interactions(
        arms=spec.arms,
        x=x[told],
        eligible=np.ones((len(told), 3), bool),
        action=action[told],
        propensity=propensity[told],
        reward=parts @ np.array(READING.mix),
        weight=np.ones(len(told)),
        at=told.astype(float),
        parts=parts,
    )


def spec_of(schema, budget, **params):
    return Spec(schema, ARMS, {"budget": budget, "ridge": 10.0, **params}, reading=READING)


@pytest.mark.parametrize("drift", [False, True])
@pytest.mark.parametrize("budget", [0.5, 1.5])
def test_spending_stays_within_a_hundredth_of_the_budget(schema, contexts_of, budget, drift):
    x = contexts_of(6_000, 1)
    score, cost = outcomes(x, 2, drift=drift)
    spent, _, state = simulate(spec_of(schema, budget), x, score, cost)
    assert spent == pytest.approx(budget, rel=0.01)
    assert state.spent == pytest.approx(6_000 * spent)
    assert state.requests == 6_000


def test_late_feedback_is_no_harm(schema, contexts_of):
    x = contexts_of(6_000, 1)
    score, cost = outcomes(x, 2, drift=False)
    spent, _, _ = simulate(spec_of(schema, 1.0), x, score, cost, late=80)
    assert spent == pytest.approx(1.0, rel=0.015)


def test_the_budget_buys_more_than_the_best_mix_of_two_arms(schema, contexts_of):
    x = contexts_of(6_000, 1)
    score, cost = outcomes(x, 2, drift=False)
    budget = 1.5
    _, earned, _ = simulate(spec_of(schema, budget), x, score, cost)
    means, prices = score.mean(axis=0), cost.mean(axis=0)
    share = (budget - prices[0]) / (prices[2] - prices[0])
    assert earned > means[0] + share * (means[2] - means[0]) + 0.02


def test_a_budget_that_nothing_can_keep_is_said_not_to_hold(schema, contexts_of):
    x = contexts_of(1_000, 1)
    score, cost = outcomes(x, 2, drift=False)
    spent, _, state = simulate(spec_of(schema, 0.05), x, score, cost)
    found = paced.standing(state)
    assert found is not None
    assert not found.holds
    assert found.expected > 0.05
    assert spent > 0.05
    served = paced.freeze(state).greedy().distribution(x, np.ones((1_000, 3), bool))
    assert served[:, 0].mean() > 0.95


def test_a_budget_above_what_is_wanted_leaves_the_policy_as_it_is(schema, contexts_of):
    x = contexts_of(1_000, 1)
    score, cost = outcomes(x, 2, drift=False)
    _, _, state = simulate(spec_of(schema, 100.0), x, score, cost)
    scorer, plain = paced.freeze(state), multi_objective.freeze(state.inner)
    assert isinstance(scorer, Mixed)
    assert isinstance(plain, Mixed)
    assert np.array_equal(scorer.mix, plain.mix)
    found = paced.standing(state)
    assert found is not None
    assert found.multiplier == 0.0


def test_requests_are_recent_by_their_decisions_time(schema, contexts_of):
    x = contexts_of(300, 1)
    score, cost = outcomes(x, 2, drift=False)
    spec = spec_of(schema, 1.0, window=100)
    served = np.random.default_rng(0).permutation(300), np.zeros(300, dtype=int), np.ones(300)
    state = paced.learn(paced.init(spec), log_of(spec, x, score, cost, served))
    assert state.recent.at.tolist() == list(range(200, 300))
    assert np.array_equal(state.recent.x, x[200:])
    assert state.spent == pytest.approx(cost[:, 0].sum())


def test_what_was_spent_stays_spent_when_arms_change(schema, contexts_of):
    x = contexts_of(400, 1)
    score, cost = outcomes(x, 2, drift=False)
    spec = spec_of(schema, 1.0)
    _, _, state = simulate(spec, x, score, cost)
    other = replace(spec, arms=("large", "new", "small"))
    again = paced.rearm(state, other)
    assert (again.spent, again.requests) == (state.spent, state.requests)
    number = {0: 2, 1: -1, 2: 0}
    assert again.recent.action.tolist() == [number[a] for a in state.recent.action.tolist()]
    data = paced.snapshot(again)
    assert paced.snapshot(paced.restore(other, data)) == data
    spread = paced.freeze(again).distribution(x, np.ones((400, 3), bool))
    assert np.allclose(spread.sum(axis=1), 1.0)


def test_a_budget_without_a_cost_is_refused(schema, contexts_of):
    with pytest.raises(SpecError, match="parts are reward: give the reward another term"):
        paced.init(Spec(schema, ARMS, {"budget": 1.0}))
    with pytest.raises(SpecError, match="latency_s"):
        paced.init(spec_of(schema, 1.0, cost="latency_s"))
    with pytest.raises(SpecError, match="window"):
        paced.init(spec_of(schema, 1.0, window=10**6))
    with pytest.raises(SpecError, match="horizon"):
        paced.init(spec_of(schema, 1.0, horizon=0.0))
    x = contexts_of(10, 1)
    score, cost = outcomes(x, 2, drift=False)
    served = np.arange(10), np.zeros(10, dtype=int), np.ones(10)
    log = log_of(spec_of(schema, 1.0), x, score, cost, served)
    with pytest.raises(InteractionError, match="cost_usd"):
        paced.learn(paced.init(spec_of(schema, 1.0)), replace(log, parts=log.parts[:, :1]))
