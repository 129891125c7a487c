from dataclasses import replace

import numpy as np
import pytest

from learners import river_linear
from learners.contract import Spec
from learners.errors import SpecError

ARMS = 4


def test_the_scorer_scores_as_river_itself_does_over_1000_contexts(schema, log_of, contexts_of):
    state = river_linear.learn(
        river_linear.init(Spec(schema, log_of(1, ARMS).arms)), log_of(500, ARMS)
    )
    x = contexts_of(1000, 8)
    scores = river_linear.freeze(state).scores(x)
    for arm in range(ARMS):
        model = river_linear._model(state, state.weights[arm], state.z[arm], state.n[arm])
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


@pytest.mark.parametrize("kind", ["page_hinkley", "adwin"])
def test_a_detector_learns_in_pieces_and_after_a_restore_as_at_once(schema, log_of, kind):
    log = swapped_halfway(log_of)
    spec = Spec(schema, log.arms, {"drift": kind})
    whole = river_linear.learn(river_linear.init(spec), log)
    state = river_linear.init(spec)
    for start, stop in ((0, 7), (7, 1_500), (1_500, 4_000)):
        state = river_linear.restore(spec, river_linear.snapshot(state))
        state = river_linear.learn(state, log.rows(slice(start, stop)))
    assert river_linear.snapshot(state) == river_linear.snapshot(whole)


def swapped_halfway(log_of):
    """Arm 0 earns 0.8 and arm 1 0.2; after 2,000 of 4,000 interactions it is the other way."""
    log = log_of(4_000, 2)
    better = np.where(np.arange(4_000) < 2_000, 0, 1)
    noise = np.random.default_rng(1).normal(size=4_000) / 5
    return replace(log, reward=np.where(log.action == better, 0.8, 0.2) + noise)


@pytest.mark.parametrize("kind", ["page_hinkley", "adwin"])
def test_after_a_swap_of_arms_a_detector_ranks_them_right_within_200_interactions(
    schema, log_of, kind
):
    log = swapped_halfway(log_of)
    found = {}
    for drift in ("none", kind):
        spec = Spec(schema, log.arms, {"drift": drift, "rate": 0.02})
        state = river_linear.learn(river_linear.init(spec), log.rows(slice(0, 2_200)))
        scores = river_linear.freeze(state).scores(log.x)
        found[drift] = (scores[:, 1] - scores[:, 0]).mean()
    assert found[kind] > 0
    assert found[kind] > found["none"] + 0.1


@pytest.mark.parametrize("kind", ["page_hinkley", "adwin"])
def test_on_a_world_that_does_not_change_a_detector_changes_nothing(schema, log_of, kind):
    log = log_of(4_000, 2)
    with_one, without = (
        river_linear.learn(river_linear.init(Spec(schema, log.arms, {"drift": each})), log)
        for each in (kind, "none")
    )
    assert np.array_equal(with_one.weights, without.weights)


def test_a_detector_that_there_is_not_is_refused(schema):
    with pytest.raises(SpecError, match="give none, page_hinkley, adwin"):
        river_linear.init(Spec(schema, ("a",), {"drift": "ddm"}))
