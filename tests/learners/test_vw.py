from typing import Any

import numpy as np
import pytest

from learners import vw
from learners.contract import Spec
from learners.errors import SpecError
from learners.features import Feature, Schema

ARMS = 5
EVERY_ARM = np.arange(ARMS)


@pytest.mark.parametrize("importance", [0.0, 1.0])
def test_the_scorer_scores_as_vw_itself_does_over_1000_contexts(
    schema, log_of, contexts_of, importance
):
    spec = Spec(schema, log_of(1, ARMS).arms, {"importance": importance})
    state = vw.learn(vw.init(spec), log_of(500, ARMS))
    x = contexts_of(1000, 8)
    workspace = vw.load(state)
    costs = np.zeros((1000, ARMS))
    for row, each in zip(costs, x, strict=True):
        found: Any = workspace.predict_one(vw.build(each, EVERY_ARM))
        for arm, cost in found:
            row[arm] = cost
    own = state.moments.mean - costs * state.moments.scale
    assert np.abs(own).max() > 0.5
    assert np.abs(vw.freeze(state).scores(x) - own).max() < 1e-6


def test_reading_a_state_does_not_train_it(schema, log_of):
    state = vw.learn(vw.init(Spec(schema, log_of(1, ARMS).arms)), log_of(100, ARMS))
    before = state.model
    vw.load(state).predict_one(vw.build(log_of(1, ARMS).x[0], EVERY_ARM))
    assert vw.load(state).serialize() == vw.load(state).serialize()
    assert state.model == before


def test_a_model_past_the_limit_is_refused():
    wide = Schema((Feature("terms", "vector", size=4095),))
    arms = tuple(f"arm-{i}" for i in range(1024))
    assert len(arms) * wide.dimension <= vw.MAX_WEIGHTS
    with pytest.raises(SpecError, match="importance"):
        vw.init(Spec(wide, arms[:2], {"importance": 2.0}))
    with pytest.raises(SpecError, match="at most 1024"):
        Spec(wide, (*arms, "one-more"))
