from dataclasses import replace

import numpy as np
import pytest
from river import linear_model, optim

from learners import river_linear, river_logistic
from learners.contract import Spec
from learners.schedule import Moments

ARMS = 4


def yes_or_no(log, odds_of):
    """The log with rewards of 0 and 1, drawn with the log-odds that each row's arm has."""
    chance = 1 / (1 + np.exp(-odds_of(log.x)[np.arange(len(log)), log.action]))
    return replace(log, reward=(np.random.default_rng(0).random(len(log)) < chance).astype(float))


@pytest.fixture(name="odds_of")
def _odds_of(schema):
    weights = np.random.default_rng(5).normal(size=(ARMS, schema.dimension)) / 2
    weights[:, 0] -= 1.5  # a yes is rare
    return lambda x: x @ weights.T


def test_with_targets_of_0_and_1_it_is_rivers_logistic_regression(schema, log_of):
    log = log_of(200, 1)
    yes = (np.arange(200) % 2).astype(float)
    state = river_logistic.init(Spec(schema, log.arms, {"rate": 0.1, "l2": 0.5}))
    rows = ((x, 0.0, y, 1.0) for x, y in zip(log.x, yes.tolist(), strict=True))
    weights, _, _ = river_logistic._taught(state, 0, rows)
    river = linear_model.LogisticRegression(optim.FTRLProximal(alpha=0.1, l2=0.5), intercept_lr=0)
    for x, y in zip(log.x, yes.tolist(), strict=True):
        river.learn_one(river_logistic._features(x), bool(y))
    for column, value in river.weights.items():
        assert weights[column] == pytest.approx(value, abs=1e-9)


def test_the_scorer_ranks_arms_as_their_probabilities_do(schema, log_of, contexts_of, odds_of):
    log = yes_or_no(log_of(1_000, ARMS), odds_of)
    state = river_logistic.learn(river_logistic.init(Spec(schema, log.arms)), log)
    x = contexts_of(1_000, 3)
    chance = 1 / (1 + np.exp(-(x @ state.weights.T)))
    ranks = river_logistic.freeze(state).scores(x).argsort(axis=1)
    assert np.array_equal(ranks, chance.argsort(axis=1))


def test_it_finds_most_of_the_reward_and_nearly_as_much_as_the_linear_one(
    schema, log_of, contexts_of, odds_of
):
    x = contexts_of(2_000, 3)
    chance = 1 / (1 + np.exp(-odds_of(x)))
    usual, most = chance.mean(), chance.max(axis=1).mean()
    earned = np.zeros(2)
    logs = [yes_or_no(log_of(3_000, ARMS, seed=seed), odds_of) for seed in range(3)]
    for log in logs:
        for i, learner in enumerate((river_linear, river_logistic)):
            state = learner.learn(learner.init(Spec(schema, log.arms)), log)
            best = learner.freeze(state).scores(x).argmax(axis=1)
            found = chance[np.arange(len(x)), best].mean()
            earned[i] += (found - usual) / (most - usual) / len(logs)
    assert earned[1] > 0.85
    assert earned[1] > earned[0] - 0.05


def test_targets_are_the_same_in_pieces_as_at_once(log_of):
    log = log_of(100, ARMS)
    whole = river_logistic.targets(river_logistic.Range(), Moments(), log)
    seen, moments, found = river_logistic.Range(), Moments(), []
    for start, stop in ((0, 1), (1, 30), (30, 100)):
        piece = log.rows(slice(start, stop))
        target, usual, seen, moments = river_logistic.targets(seen, moments, piece)
        found.append(np.stack([target, usual]))
    assert np.array_equal(np.concatenate(found, axis=1), np.stack(whole[:2]))
    assert (seen, moments) == whole[2:]


def test_rewards_that_are_all_alike_teach_nothing(schema, log_of):
    log = log_of(50, ARMS)
    state = river_logistic.init(Spec(schema, log.arms))
    after = river_logistic.learn(state, replace(log, reward=np.full(50, 0.7)))
    assert np.array_equal(after.weights, state.weights)
    assert np.allclose(river_logistic.freeze(after).scores(log.x), 0.7)
