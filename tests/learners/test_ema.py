from dataclasses import replace

import numpy as np
import pytest

from learners import ema
from learners.contract import Reading, Spec
from learners.scorers.linear import Linear
from learners.scorers.mixed import Mixed

ARMS = 3
READING = Reading(("score", "cost_usd"), (1.0, -4.0))


def domains_of(log):
    return log.x[:, 1:4].argmax(axis=1)


def test_each_average_moves_by_its_rate_from_row_to_row(schema, log_of):
    log = log_of(200, ARMS)
    params = {"half_life": 12.0, "prior": 1e-9}
    state = ema.learn(ema.init(Spec(schema, log.arms, params)), log)
    keep = 2 ** (-1 / 12.0)
    found = ema.averages(state)
    for arm in range(ARMS):
        for domain in range(3):
            average, filled = 0.0, 0.0
            for reward in log.reward[(log.action == arm) & (domains_of(log) == domain)]:
                average += (1 - keep) * (reward - average)
                filled += (1 - keep) * (1 - filled)
            # A start at 0 is what the paper's average holds too much of.
            assert found[arm, domain, 0] == pytest.approx(average / filled)


def test_an_arm_that_changed_is_believed_after_some_half_lives(schema, log_of):
    log = log_of(3_000, ARMS)
    early = replace(log, reward=np.where(log.action == 0, 1.0, 0.5))
    late = replace(log, reward=np.where(log.action == 0, 0.0, 0.5))
    state = ema.learn(ema.init(Spec(schema, log.arms, {"half_life": 50.0})), early)
    assert ema.freeze(state).scores(log.x)[:, 0].min() > 0.9
    state = ema.learn(state, late)
    # About 330 rows a domain and arm are 6.6 half-lives: 1% of the old reward is left.
    assert ema.freeze(state).scores(log.x)[:, 0].max() < 0.1


def test_an_arm_that_does_not_serve_is_not_forgotten(schema, log_of):
    log = log_of(600, ARMS)
    state = ema.learn(ema.init(Spec(schema, log.arms, {"half_life": 5.0})), log)
    more = ema.learn(state, log.rows(log.action == 1))
    assert np.array_equal(more.cells[0], state.cells[0])
    assert np.array_equal(more.arms[2], state.arms[2])


def test_the_parts_are_averaged_apart_and_mixed_as_a_request_asks(schema, log_of):
    log = log_of(900, ARMS)
    score = np.where(log.action == 0, 0.9, 0.6)
    cost = np.where(log.action == 0, 0.1, 0.01)
    parts = np.column_stack([score, cost])
    told = replace(log, parts=parts, reward=parts @ np.array(READING.mix))
    state = ema.learn(ema.init(Spec(schema, log.arms, reading=READING)), told)
    scorer = ema.freeze(state)
    assert isinstance(scorer, Mixed)
    assert (scorer.scores(log.x).argmax(axis=1) != 0).all()
    careless = np.tile([1.0, 0.0], (len(log), 1))
    assert (scorer.scores(log.x, careless).argmax(axis=1) == 0).all()


def test_the_mix_of_the_averages_is_the_average_of_the_rewards(schema, log_of):
    log = log_of(300, ARMS)
    parts = np.random.default_rng(0).random((300, 2))
    told = replace(log, parts=parts, reward=parts @ np.array(READING.mix))
    found = ema.averages(ema.learn(ema.init(Spec(schema, log.arms, reading=READING)), told))
    assert np.allclose(found[..., 1:] @ np.array(READING.mix), found[..., 0], rtol=0, atol=1e-12)


def test_rewards_without_their_parts_are_averaged_as_they_are(schema, log_of):
    log = log_of(300, ARMS)
    spec = Spec(schema, log.arms, reading=READING)
    state = ema.learn(ema.init(spec), log)
    scorer = ema.freeze(ema.restore(spec, ema.snapshot(state)))
    assert isinstance(scorer, Linear)
    plain = ema.learn(ema.init(Spec(schema, log.arms)), log)
    assert np.allclose(scorer.scores(log.x), ema.freeze(plain).scores(log.x))
