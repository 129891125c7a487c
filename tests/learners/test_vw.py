from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learners import vw, vw_model
from learners.contract import Spec
from learners.errors import SpecError
from learners.exploration import Exploration
from learners.features import Feature, Schema
from learners.schedule import standardise
from learners.scorers.linear import Linear

ARMS = 5


def examples(x, arms, labels=None):
    """One example an arm of ``arms``, for a context, as VW's contextual bandit takes them."""
    made = []
    for arm in arms:
        (row,) = vw_model.rows(x[None], np.array([arm]))
        made.append(vw_model.example(row, (labels or {}).get(arm)))
    return made


def own_scores(state, x) -> np.ndarray:
    workspace = vw.load(state)
    costs = np.zeros((len(x), ARMS))
    for row, each in zip(costs, x, strict=True):
        found: Any = workspace.predict_one(examples(each, range(ARMS)))
        for arm, cost in found:
            row[arm] = cost
    scores: np.ndarray = state.moments.mean - costs * state.moments.scale
    return scores


@pytest.mark.parametrize(
    "params",
    [{}, {"importance": 1.0}, {"cb_type": "ips"}, {"cb_type": "dr"}],
    ids=["mtr", "mtr-weighted", "ips", "dr"],
)
def test_the_scorer_scores_as_vw_itself_does_over_1000_contexts(
    schema, log_of, contexts_of, params
):
    spec = Spec(schema, log_of(1, ARMS).arms, params)
    state = vw.learn(vw.init(spec), log_of(500, ARMS))
    x = contexts_of(1000, 8)
    own = own_scores(state, x)
    assert np.abs(own).max() > 0.5
    assert np.abs(vw.freeze(state).scores(x) - own).max() < 1e-6


@pytest.mark.parametrize("importance", [0.0, 1.0])
def test_mtr_learns_the_same_from_the_chosen_arm_alone_as_from_all(schema, log_of, importance):
    log = log_of(400, ARMS)
    # The published weight is relative to the mean number of arms, ours to the row's own.
    log = replace(log, eligible=np.ones_like(log.eligible))
    spec = Spec(schema, log.arms, {"importance": importance})
    state = vw.init(spec)
    whole = vw.load(state)
    rewards, _ = standardise(state.moments, log)
    for i, cost in enumerate((-rewards).tolist()):
        probability = (float(log.propensity[i]) * ARMS) ** importance / ARMS
        label = {int(log.action[i]): (cost, probability)}
        whole.learn_one(examples(log.x[i], range(ARMS), label))
    alone = vw.load(vw.learn(state, log)).weights()
    assert np.abs(alone[..., 0]).max() > 0.1
    assert np.abs(whole.weights()[..., 0] - alone[..., 0]).max() < 1e-5


@pytest.mark.parametrize("cb_type", vw.CB_TYPES)
def test_each_type_learns_the_same_in_pieces_and_after_a_restore(schema, log_of, cb_type):
    log = log_of(200, ARMS)
    spec = Spec(schema, log.arms, {"cb_type": cb_type})
    whole = vw.learn(vw.init(spec), log)
    state = vw.init(spec)
    for start, stop in ((0, 1), (1, 90), (90, 200)):
        state = vw.restore(spec, vw.snapshot(state))
        state = vw.learn(state, log.rows(slice(start, stop)))
    assert np.abs(vw.freeze(whole).weights - vw.freeze(state).weights).max() < 1e-8


@pytest.mark.parametrize(("cb_type", "share"), [("mtr", 0.9), ("ips", 0.8), ("dr", 0.9)])
def test_each_type_finds_nearly_all_of_the_best_reward(schema, log_of, contexts_of, cb_type, share):
    log = log_of(3_000, ARMS)
    spec = Spec(schema, log.arms, {"cb_type": cb_type})
    scorer = vw.freeze(vw.learn(vw.init(spec), log))
    x = contexts_of(1_000, 5)
    # The log's own noise is small, so a ridge on another 5,000 rows stands for the truth.
    truth = ridge(log_of(5_000, ARMS, seed=3))
    true = truth.scores(x)
    rows = np.arange(len(x))
    earned = true[rows, scorer.scores(x).argmax(axis=1)].mean() - true.mean()
    assert earned > share * (true.max(axis=1).mean() - true.mean())


def ridge(log) -> Linear:
    weights = np.zeros((ARMS, log.x.shape[1]))
    for arm in range(ARMS):
        x = log.x[log.action == arm]
        regular = x.T @ x + 0.1 * np.eye(x.shape[1])
        weights[arm] = np.linalg.solve(regular, x.T @ log.reward[log.action == arm])
    return Linear(log.arms, weights, Exploration())


def test_the_doubly_robust_costs_are_those_of_the_paper(schema, log_of):
    # Of two arms the second is chosen once: its block learns c, the first's the prediction.
    log = log_of(60, 2)
    spec = Spec(schema, log.arms, {"cb_type": "dr"})
    state = vw.learn(vw.init(spec), log)
    one = log_of(61, 2).rows(slice(60, 61))
    after = vw.load(vw.learn(state, one))
    d = schema.dimension
    by_hand = vw.load(state)
    predicted = np.array(vw_model.view(by_hand, vw_model.Shape(2, 2, d))[1, ..., 0] @ one.x[0])
    rewards, _ = standardise(state.moments, one)
    chosen, cost = int(one.action[0]), -float(rewards[0])
    corrected = predicted.copy()
    corrected[chosen] += (cost - predicted[chosen]) / max(float(one.propensity[0]), 0.1)
    steps = [(arm, corrected[arm]) for arm in (0, 1) if one.eligible[0, arm]]
    for block, target in [*steps, (2 + chosen, cost)]:
        (row,) = vw_model.rows(one.x, np.array([block]))
        vw_model.step(by_hand, row, float(target), 1.0)
    assert np.abs(by_hand.weights() - after.weights())[..., 0].max() < 1e-6


def test_reading_a_state_does_not_train_it(schema, log_of):
    state = vw.learn(vw.init(Spec(schema, log_of(1, ARMS).arms)), log_of(100, ARMS))
    before = state.model
    vw.load(state).predict_one(examples(log_of(1, ARMS).x[0], range(ARMS)))
    assert vw.load(state).serialize() == vw.load(state).serialize()
    assert state.model == before


def test_a_model_past_the_limit_is_refused():
    wide = Schema((Feature("terms", "vector", size=4095),))
    arms = tuple(f"arm-{i}" for i in range(1024))
    assert len(arms) * wide.dimension <= vw_model.MAX_WEIGHTS
    with pytest.raises(SpecError, match="at most 4194304"):
        vw.init(Spec(wide, arms, {"cb_type": "dr"}))
    with pytest.raises(SpecError, match="importance"):
        vw.init(Spec(wide, arms[:2], {"importance": 2.0}))
    with pytest.raises(SpecError, match="give mtr, ips, dr"):
        vw.init(Spec(wide, arms[:2], {"cb_type": "dm"}))
    with pytest.raises(SpecError, match="at most 1024"):
        Spec(wide, (*arms, "one-more"))


# Only mtr shows VW one arm at a time: the others' columns count in the steps of ips and dr.
@pytest.mark.parametrize(("cb_type", "apart"), [("mtr", 0.0), ("ips", 1e-3), ("dr", 1e-3)])
def test_an_arm_that_stays_learns_on_as_if_no_other_had_left(schema, log_of, cb_type, apart):
    log = log_of(300, ARMS)
    spec = Spec(schema, log.arms, {"cb_type": cb_type})
    state = vw.learn(vw.init(spec), log)
    fewer = vw.rearm(state, Spec(schema, ("arm-4", "arm-1"), spec.params))
    again = vw.rearm(fewer, spec)
    assert np.array_equal(vw.freeze(again).weights[[1, 4]], vw.freeze(state).weights[[1, 4]])
    more = log_of(200, ARMS, seed=1)
    only = more.rows(np.flatnonzero(more.action == 4))
    first, second = (vw.freeze(vw.learn(each, only)).weights[4] for each in (state, again))
    assert np.abs(first - second).max() <= apart


def test_arms_beyond_the_room_of_the_model_move_to_a_larger_one(schema, log_of):
    log = log_of(300, ARMS)
    state = vw.learn(vw.init(Spec(schema, log.arms)), log)
    many = (*(f"new-{i}" for i in range(300)), "arm-2")
    moved = vw.rearm(state, Spec(schema, many))
    assert len(vw.load(moved).weights()) > len(vw.load(state).weights())
    assert np.array_equal(vw.freeze(moved).weights[300], vw.freeze(state).weights[2])
    more = replace(log_of(200, 301, seed=2), arms=many)
    assert np.isfinite(vw.freeze(vw.learn(moved, more)).weights).all()


def test_what_workers_learnt_of_arms_of_their_own_is_merged_whole(schema, log_of):
    log = log_of(400, ARMS)
    base = vw.learn(vw.init(Spec(schema, log.arms)), log.rows(slice(0, 100)))
    rest = log.rows(slice(100, 400))
    parts = [rest.rows(np.flatnonzero(np.isin(rest.action, arms))) for arms in ([0, 1], [2, 3, 4])]
    states = [vw.learn(base, part) for part in parts]
    found = vw.load(vw.merge(base, states)).weights()[:, 0, 0]
    d = schema.dimension
    first, second = (vw.load(state).weights()[:, 0, 0] for state in states)
    assert np.array_equal(found[: 2 * d], first[: 2 * d])
    assert np.array_equal(found[2 * d :], second[2 * d :])


def test_merged_states_are_twice_as_near_to_one_that_learnt_all_as_their_base(
    schema, log_of, contexts_of
):
    log = log_of(3_000, ARMS)
    base = vw.learn(vw.init(Spec(schema, log.arms)), log.rows(slice(0, 300)))
    pieces = [log.rows(slice(start, start + 900)) for start in (300, 1_200, 2_100)]
    states = [vw.learn(base, piece) for piece in pieces]
    merged = vw.merge(base, states)
    whole = vw.learn(base, log.rows(slice(300, 3_000)))
    assert merged.moments.count == pytest.approx(3_000)
    assert merged.moments.mean == pytest.approx(whole.moments.mean)
    assert merged.moments.squares == pytest.approx(whole.moments.squares)
    x = contexts_of(500, 4)
    far, near = (
        np.abs(vw.freeze(each).scores(x) - vw.freeze(whole).scores(x)).mean()
        for each in (base, merged)
    )
    assert near < far / 2


def test_states_of_another_base_are_not_merged(schema, log_of):
    base = vw.init(Spec(schema, log_of(1, ARMS).arms))
    other = vw.init(Spec(schema, log_of(1, ARMS).arms, seed=1))
    for states in ([], [other]):
        with pytest.raises(SpecError, match="states to merge"):
            vw.merge(base, states)
