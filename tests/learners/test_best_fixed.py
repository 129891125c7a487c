from dataclasses import replace

import numpy as np

from learners import best_fixed
from learners.contract import Spec


def test_a_policy_that_shows_an_arm_where_it_is_good_does_not_flatter_it(schema, log_of):
    # In half of the contexts arm 0 earns 1, else 0; arm 1 always 0.6. The log shows arm 0 where
    # it is good 9 times of 10, and where it is bad 1 time of 10.
    log = log_of(20_000, 2)
    random = np.random.default_rng(0)
    good = random.random(len(log)) < 0.5
    share = np.where(good, 0.9, 0.1)
    action = np.where(random.random(len(log)) < share, 0, 1)
    served = replace(
        log,
        eligible=np.ones((len(log), 2), dtype=np.bool_),
        action=action,
        propensity=np.where(action == 0, share, 1 - share),
        reward=np.where(action == 0, good.astype(float), 0.6),
    )
    params = {"max_importance": 100.0}
    state = best_fixed.learn(best_fixed.init(Spec(schema, log.arms, params)), served)
    values = best_fixed.freeze(state).weights[:, 0]
    # Standard error about 0.01; the plain mean of arm 0 would be 0.9.
    assert abs(values[0] - 0.5) < 0.06
    assert values[1] > values[0]


def test_an_arm_without_data_has_the_mean_of_all(schema, log_of):
    log = log_of(300, 3)
    kept = log.rows(log.action != 2)
    state = best_fixed.learn(best_fixed.init(Spec(schema, log.arms)), kept)
    assert np.isclose(best_fixed.freeze(state).weights[2, 0], kept.reward.mean())
