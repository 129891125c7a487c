import numpy as np
import pytest

from learners import uniform
from learners.contract import Spec


@pytest.mark.parametrize("exploration", ["uniform", "greedy", "squarecb", "softmax"])
def test_every_eligible_arm_stays_as_likely_whatever_was_learnt(schema, log_of, exploration):
    log = log_of(400, 4)
    spec = Spec(schema, log.arms, {"exploration": exploration})
    scorer = uniform.freeze(uniform.learn(uniform.init(spec), log))
    spread = scorer.distribution(log.x, log.eligible)
    expected = log.eligible / log.eligible.sum(axis=1, keepdims=True)
    assert np.allclose(spread, expected, rtol=0, atol=1e-12)
