from dataclasses import replace

import numpy as np
import pytest
from river import tree
from river.tree.splitter import QOSplitter

from learners import river_linear, river_tree
from learners.contract import Spec
from learners.errors import SpecError

ARMS = 3


def jumping(log):
    """Arm 0 earns 1 where the first number is beyond 0.5 on either side, the others a half."""
    inner = np.abs(log.x[:, 4]) < 0.5
    reward = np.where(log.action == 0, np.where(inner, 0.0, 1.0), 0.5)
    return replace(log, reward=reward + np.random.default_rng(2).normal(size=len(log)) / 20)


def rivers(state, arm):
    """River's own tree of an arm, which learns the window row by row."""
    chosen = state.action == arm
    found = tree.HoeffdingTreeRegressor(
        grace_period=int(state.params["grace"]),
        max_depth=int(state.params["depth"]),
        delta=float(state.params["confidence"]),
        tau=float(state.params["tie"]),
        leaf_prediction="mean",
        splitter=QOSplitter(),
        stop_mem_management=False,
        max_size=float("inf"),
    )
    targets = (state.reward[chosen] - state.moments.mean) / state.moments.scale
    x = state.x[chosen].astype(np.float64).tolist()
    for row, target, weight in zip(x, targets.tolist(), state.weight[chosen].tolist(), strict=True):
        found.learn_one(dict(enumerate(row)), target, w=weight)
    return found


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"window": 350, "depth": 2},
        {"grace": 7, "depth": 8, "tie": 0.0},
        {"confidence": 0.9, "tie": 0.0},
    ],
)
def test_the_scorer_scores_as_river_itself_does_over_1000_contexts(
    schema, log_of, contexts_of, params
):
    log = jumping(log_of(600, ARMS))
    weight = np.random.default_rng(3).uniform(0.3, 2.5, size=len(log))
    log = replace(log, weight=weight)
    state = river_tree.learn(river_tree.init(Spec(schema, log.arms, params)), log)
    scorer = river_tree.freeze(state)
    assert scorer.depth >= 2
    x = contexts_of(1_000, 8)
    scores = scorer.scores(x)
    for arm in range(ARMS):
        model = rivers(state, arm)
        own = np.array([model.predict_one(dict(enumerate(row))) for row in x.tolist()])
        expected = state.moments.mean + own * state.moments.scale
        assert np.abs(scores[:, arm] - expected).max() < 1e-6


def test_a_reward_that_jumps_is_learnt_where_a_line_is_not(schema, log_of, contexts_of):
    log = jumping(log_of(1_000, ARMS))
    x = contexts_of(500, 8)
    truth = np.abs(x[:, 4]) >= 0.5
    right = []
    for learner in (river_linear, river_tree):
        scores = learner.freeze(learner.learn(learner.init(Spec(schema, log.arms)), log)).scores(x)
        right.append((truth == (scores[:, 0] > 0.5)).mean())
    assert right[1] > 0.9
    assert right[1] > right[0] + 0.2


def test_what_has_left_the_window_is_forgotten(schema, log_of):
    log = log_of(400, ARMS)
    spec = Spec(schema, log.arms, {"window": 100})
    first = river_tree.learn(river_tree.init(spec), replace(log, reward=log.reward + 5))
    later = river_tree.learn(first, log)
    assert len(later.x) == 100
    # The window is all that the trees are made of; the mean of all rewards only centres them.
    anew = river_tree.learn(river_tree.init(spec), log)
    scores = [river_tree.freeze(state).scores(log.x) for state in (later, anew)]
    assert np.allclose(scores[0], scores[1])


def test_a_parameter_out_of_range_is_refused(schema):
    for params, message in (
        ({"window": 0}, "at least 1"),
        ({"window": 10_001}, "at most 10000"),
        ({"depth": 11}, "at most 10"),
        ({"confidence": 2.0}, "at most 1"),
    ):
        with pytest.raises(SpecError, match=message):
            river_tree.init(Spec(schema, ("a",), params))
