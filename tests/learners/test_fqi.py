from dataclasses import replace

import numpy as np
import pytest

from learners import fqi
from learners.contract import Reading, Spec
from learners.episodes import episode_schema, unroll
from learners.errors import SpecError
from learners.features import Feature, Schema
from learners.interactions import Interactions
from learners.reservoir import Transitions
from learners.scorers.budgeted import Budgeted

PLAIN = {"conservatism": 0.0, "ridge": 1e-6}
CHAIN = Schema((Feature("place", "category", values=("s", "t")),))
"""Two places. In s: "go" leads to t and earns nothing, "stop" ends with 0.5. In t: "go" ends with
1 and "stop" with 0. So the best is go, go, and the value of going in s is 1."""


def chain(n: int, seed: int = 0, go: float = 0.5) -> Interactions:
    random = np.random.default_rng(seed)
    rows = []
    for episode in range(n):
        first = int(random.random() < go)
        if not first:
            rows.append(("s", 0, 1 - go, 0.5, episode, 0))
            continue
        second = int(random.random() < go)
        rows.append(("s", 1, go, float(second), episode, 0))
        rows.append(("t", second, go if second else 1 - go, float(second), episode, 1))
    place, action, propensity, reward, episode_of, at = zip(*rows, strict=True)
    return Interactions(
        arms=("stop", "go"),
        x=CHAIN.encode_all([{"place": each} for each in place]),
        eligible=np.ones((len(rows), 2), bool),
        action=np.array(action),
        propensity=np.array(propensity),
        reward=np.array(reward),
        weight=np.ones(len(rows)),
        at=np.array(at, float) + np.array(episode_of, float),
        episode=np.array(episode_of),
    )


def learnt(log: Interactions, **params):
    return fqi.learn(fqi.init(Spec(CHAIN, log.arms, params)), log)


def values(state):
    x = CHAIN.encode_all([{"place": "s"}, {"place": "t"}])
    return fqi.freeze(state).scores(x)


def test_it_finds_the_values_of_the_best_policy_not_of_the_one_that_served():
    # Those who went served badly later: going earned 0.2 in the log, and is worth 1.
    found = values(learnt(chain(4_000, go=0.2), **PLAIN))
    assert found == pytest.approx(np.array([[0.5, 1.0], [0.0, 1.0]]), abs=1e-3)


def test_a_discount_makes_what_is_late_worth_less():
    found = values(learnt(chain(4_000), **PLAIN, discount=0.4))
    assert found[0] == pytest.approx([0.5, 0.4], abs=1e-3)


def test_one_step_episodes_are_a_ridge_regression_an_arm(schema, log_of):
    log = log_of(200, 3)
    params = {"ridge": 2.0, "conservatism": 0.0}
    scorer = fqi.freeze(fqi.learn(fqi.init(Spec(schema, log.arms, params)), log))
    mean = log.reward.mean()
    for arm in range(3):
        x, reward = log.x[log.action == arm], log.reward[log.action == arm]
        expected = np.linalg.solve(x.T @ x + 2 * np.eye(x.shape[1]), x.T @ (reward - mean))
        expected[0] += mean
        assert scorer.scores(np.eye(x.shape[1]))[:, arm] == pytest.approx(expected, abs=1e-9)


def test_caution_is_the_closed_form_of_conservative_q_learning():
    # With one constant column: Q falls by c · sd / √n · (even share / share in the log − 1).
    schema, n, rare = Schema(()), 10_000, 500
    action = (np.arange(n) < rare).astype(np.int64)
    reward = np.where(np.arange(n) % 2 == 0, 1.0, 0.0)
    log = Interactions(
        arms=("a", "b"),
        x=np.ones((n, 1)),
        eligible=np.ones((n, 2), bool),
        action=action,
        propensity=np.full(n, 0.5),
        reward=reward,
        weight=np.ones(n),
    )
    spec = Spec(schema, log.arms, {"ridge": 1e-9, "conservatism": 2.0})
    scores = fqi.freeze(fqi.learn(fqi.init(spec), log)).scores(np.ones((1, 1)))[0]
    for arm, share in ((0, 0.95), (1, 0.05)):
        assert scores[arm] == pytest.approx(0.5 - 2 * 0.5 / 100 * (0.5 / share - 1), rel=1e-6)


def test_an_arm_that_never_served_falls_by_conservatism_at_most(schema, log_of):
    log = log_of(5_000, 2)
    only = log.rows((log.action == 0) & log.eligible.all(axis=1))
    for ridge in (1e-6, 1.0):
        spec = Spec(schema, log.arms, {"ridge": ridge, "conservatism": 1.5})
        state = fqi.learn(fqi.init(spec), only)
        gone = fqi.freeze(state).scores(np.eye(schema.dimension)[:1])[0, 1] - only.reward.mean()
        assert -1.5 * only.reward.std() * (1 + 1e-9) <= gone < 0


def test_episodes_learnt_in_pieces_are_those_learnt_at_once_in_any_order():
    log = chain(400)
    whole = values(learnt(log))
    pieces = fqi.init(Spec(CHAIN, log.arms))
    for some in np.array_split(np.random.default_rng(1).permutation(400), 5):
        rows = np.flatnonzero(np.isin(log.episode, some))
        pieces = fqi.learn(pieces, log.rows(np.random.default_rng(2).permutation(rows)))
    assert values(pieces) == pytest.approx(whole, abs=1e-9)


def test_a_full_sample_stands_for_all_that_it_saw():
    log = chain(6_000)
    state = learnt(log, **PLAIN, capacity=300)
    assert len(state.sample) == 300
    assert state.followed > 2_500
    assert values(state) == pytest.approx(values(learnt(log, **PLAIN)), abs=0.02)
    more = fqi.learn(state, chain(6_000, seed=1))
    assert len(fqi.snapshot(more)) < len(fqi.snapshot(state)) + 64


def test_the_sample_is_the_same_whatever_the_batches():
    log = chain(500)
    spec = Spec(CHAIN, log.arms)
    steps = unroll(log, spec)
    whole = Transitions.empty(spec).with_steps(steps, 3, 50)
    half = log.episode < 250
    parts = Transitions.empty(spec)
    for rows in (~half, half):
        parts = parts.with_steps(unroll(log.rows(rows), spec), 3, 50)
    for name, each in whole.tensors().items():
        assert np.array_equal(each, parts.tensors()[name])
    other = Transitions.empty(spec).with_steps(steps, 4, 50)
    assert not np.array_equal(other.key, whole.key)


def test_the_sample_is_even_over_what_was_seen():
    # 1,000 of 10,000 steps; the mean of their places is within 5 standard errors: 1 in 10⁶.
    n = 10_000
    x = np.column_stack([np.ones(2 * n), np.repeat(np.arange(n) / n, 2), np.zeros(2 * n)])
    log = replace_log(x, np.repeat(np.arange(n), 2))
    spec = Spec(CHAIN, log.arms)
    sample = Transitions.empty(spec).with_steps(unroll(log, spec), 0, 1_000)
    assert len(sample) == 1_000
    assert abs(sample.x[:, 1].mean() - 0.5) < 5 * np.sqrt(1 / 12 / 1_000)


def replace_log(x: np.ndarray, episode: np.ndarray) -> Interactions:
    n = len(x)
    return Interactions(
        arms=("stop", "go"),
        x=x,
        eligible=np.ones((n, 2), bool),
        action=np.zeros(n, np.int64),
        propensity=np.ones(n),
        reward=np.zeros(n),
        weight=np.ones(n),
        at=np.arange(n, dtype=float),
        episode=episode,
    )


def test_an_arm_that_leaves_takes_its_steps_with_it():
    state = learnt(chain(500))
    spec = replace(state.spec, arms=("new", "go"))
    changed = fqi.rearm(state, spec)
    assert changed.sample.action.tolist() == [1] * len(changed.sample)
    assert not changed.sample.eligible[:, 0].any()
    assert values(changed)[0, 1] == pytest.approx(1.0, abs=0.1)


def test_a_budget_mask_is_exported_where_turns_are_bounded():
    arms = ("small", "large")
    schema = episode_schema(arms, max_turns=3, budget_usd=1.0)
    n = 4
    contexts = [{"turn": i % 2, "spent_usd": 0.3 * (i % 2), "budget_usd": 1.0} for i in range(n)]
    log = Interactions(
        arms=arms,
        x=schema.encode_all(contexts),
        eligible=np.ones((n, 2), bool),
        action=np.array([1, 0, 1, 0]),
        propensity=np.full(n, 0.5),
        reward=np.zeros(n),
        weight=np.ones(n),
        at=np.arange(n, dtype=float),
        parts=np.array([[0.0, 0.1], [0.0, 0.04], [0.0, 0.1], [0.0, 0.02]]),
        episode=np.array([0, 0, 1, 1]),
    )
    reading = Reading(("solved", "cost_usd"), (1.0, -1.0))
    spec = Spec(schema, arms, {"max_turns": 3, "cost_margin": 2.0}, reading=reading)
    scorer = fqi.freeze(fqi.learn(fqi.init(spec), log))
    assert isinstance(scorer, Budgeted)
    # The context says that the large arm's call took 0.3, which is more than its part says.
    assert scorer.bounds == pytest.approx([0.08, 0.6])


def test_what_makes_no_sense_is_refused(schema):
    for params, message in (
        ({"discount": 1.5}, "discount"),
        ({"max_turns": 3}, "needs the number 'turn'"),
        ({"terminal": "solved"}, "no part of the reward"),
        ({"capacity": 0}, "capacity"),
    ):
        with pytest.raises(SpecError, match=message):
            fqi.init(Spec(schema, ("a", "b"), params))
