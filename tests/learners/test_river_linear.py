import numpy as np

from learners import river_linear
from learners.contract import Spec

ARMS = 4


def test_the_scorer_scores_as_river_itself_does_over_1000_contexts(schema, log_of, contexts_of):
    state = river_linear.learn(
        river_linear.init(Spec(schema, log_of(1, ARMS).arms)), log_of(500, ARMS)
    )
    x = contexts_of(1000, 8)
    scores = river_linear.freeze(state).scores(x)
    for arm in range(ARMS):
        model = river_linear._model(state, arm)
        own = [model.predict_one({j: v for j, v in enumerate(row.tolist()) if v != 0}) for row in x]
        expected = state.moments.mean + np.array(own) * state.moments.scale
        assert np.abs(scores[:, arm] - expected).max() < 1e-6


def test_a_rebuilt_regression_learns_as_one_that_was_never_taken_apart(schema, log_of):
    log = log_of(60, 1)
    state = river_linear.init(Spec(schema, log.arms))
    whole = river_linear.learn(state, log)
    for i in range(60):
        state = river_linear.learn(state, log.rows(slice(i, i + 1)))
    assert np.array_equal(state.weights, whole.weights)
    assert np.array_equal(state.z, whole.z)
    assert np.array_equal(state.n, whole.n)
