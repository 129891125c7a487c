from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learners import catalogue
from learners.bradley_terry import Prior, fit, leaderboard, prior
from learners.contract import Learner, Params, Spec
from learners.errors import PreferenceError
from learners.interactions import Interactions
from learners.priors import MAX_ROWS, as_interactions, as_seeds
from learners.votes import Votes

ARMS = ("small", "middle", "large", "unheard")
LEARNERS = ("best_fixed", "beta_thompson", "ema", "linucb", "neighbours", "per_domain", "pheromone")


@pytest.fixture(name="votes")
def _votes() -> Votes:
    """600 votes: large beats middle beats small, each 3 times of 4; the others are not heard of."""
    random = np.random.default_rng(0)
    names = ("large", "middle", "small")
    pairs = [random.permutation(3)[:2] for _ in range(600)]
    won = [
        pair if (random.random() < 0.75) is bool(pair[0] < pair[1]) else pair[::-1]
        for pair in pairs
    ]
    return Votes.named([names[a] for a, _ in won], [names[b] for _, b in won])


def choices(learner: Learner, state: Any, x: np.ndarray) -> np.ndarray:
    """How often each arm is the best choice, by its number."""
    scorer = learner.freeze(state).greedy()
    return np.asarray(scorer.distribution(x, np.ones((len(x), len(ARMS)), bool)).mean(axis=0))


def real(log_of, n: int, means: list[float]) -> Interactions:
    """A real log of n rows in which each arm's rewards are 0 or 1."""
    log = replace(log_of(n, len(ARMS), seed=3), arms=ARMS)
    won = np.random.default_rng(4).random(n) < np.array(means)[log.action]
    wanted: Interactions = replace(log, reward=won.astype(float), parts=won.astype(float)[:, None])
    return wanted


def test_each_arm_has_its_mean_and_its_count(schema):
    spec = Spec(schema, ARMS)
    given = Prior(
        ("large", "small", "gone", "middle"),
        np.array([0.7, 0.2, 0.5, 0.4]),
        np.array([9.5, 3.0, 8.0, 0.0]),
    )
    log = as_interactions(given, spec)
    weight = np.bincount(log.action, log.weight, 4)
    assert weight == pytest.approx([3.0, 0.0, 9.5, 0.0])
    earned = np.bincount(log.action, log.weight * log.reward, 4)
    assert earned[[0, 2]] / weight[[0, 2]] == pytest.approx([0.2, 0.7])
    between = (log.reward > 1e-9) & (log.reward < 1 - 1e-9)
    assert np.bincount(log.action[between], minlength=4).max() <= 1
    scaled = as_interactions(given, spec, low=-3.0, high=5.0)
    assert scaled.reward == pytest.approx(-3.0 + 8.0 * log.reward)


def test_a_prior_of_many_votes_has_few_rows(schema):
    given = Prior(("small",), np.array([0.25]), np.array([1e6]))
    log = as_interactions(given, Spec(schema, ARMS))
    assert len(log) == MAX_ROWS
    assert log.weight.sum() == pytest.approx(1e6)
    assert log.reward.mean() == pytest.approx(0.25)


def test_a_prior_that_knows_nothing_gives_no_row(schema):
    log = as_interactions(Prior(("gone",), np.array([0.5]), np.array([3.0])), Spec(schema, ARMS))
    assert len(log) == 0
    learner = catalogue.load("best_fixed")
    assert learner.learn(learner.init(Spec(schema, ARMS)), log).moments.count == 0


@pytest.mark.parametrize("name", LEARNERS)
def test_the_first_choice_is_the_leaderboards_best_until_real_feedback_overrules_it(
    name, schema, votes, log_of
):
    learner, spec = catalogue.load(name), Spec(schema, ARMS)
    domains = schema.encode_all([{"domain": each} for each in ("code", "law", "maths", "")])
    told = as_interactions(prior(fit(votes), most=30.0), spec, contexts=domains)
    start = learner.learn(learner.init(spec), told)
    log = real(log_of, 3_000, [0.9, 0.3, 0.1, 0.3])
    before = choices(learner, start, log.x)
    after = choices(learner, learner.learn(start, log), log.x)
    print(name, before, after)
    assert leaderboard(votes, seed=0, rounds=20)[0].arm == "large"
    assert before[ARMS.index("large")] > 0.95
    assert after[ARMS.index("small")] > 0.95


def test_beta_thompson_starts_from_the_means_as_seeds(schema, votes):
    learner = catalogue.load("beta_thompson")
    params: Params = {"seeds": as_seeds(prior(fit(votes))), "prior_strength": 20.0}
    state = learner.init(Spec(schema, ARMS, params))
    assert choices(learner, state, np.eye(1, schema.dimension))[ARMS.index("large")] == 1.0


def test_rewards_the_wrong_way_round_are_refused(schema):
    given = Prior(("small",), np.array([0.5]), np.array([3.0]))
    with pytest.raises(PreferenceError, match=r"low 1\.0, high 1\.0"):
        as_interactions(given, Spec(schema, ARMS), low=1.0, high=1.0)
    with pytest.raises(PreferenceError, match="contexts"):
        as_interactions(given, Spec(schema, ARMS), contexts=np.zeros((0, schema.dimension)))
