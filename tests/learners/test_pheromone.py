from dataclasses import replace

import numpy as np
import pytest

from learners import pheromone
from learners.contract import Spec
from learners.errors import SpecError
from learners.exploration import floored
from learners.features import Feature, Schema
from learners.interactions import Interactions
from learners.quality_gate import QualityGate
from learners.records import Card
from learners.schedule import standardise

SCHEMA = Schema((Feature("chars", "number"), Feature("domain", "category", values=("code", "law"))))
ARMS = ("a", "b", "c")


def spec_of(cards: tuple[Card, ...] = (), **params: float | str) -> Spec:
    return Spec(SCHEMA, ARMS, params, cards=cards)


def context_of(domain: int) -> np.ndarray:
    """0: code, 1: law, 2: neither."""
    x = np.array([1.0, 0.3, 0.0, 0.0])
    if domain < 2:
        x[2 + domain] = 1.0
    return x


def log_of(n: int, means: np.ndarray, seed: int = 0) -> Interactions:
    """``means[domain, arm]`` is the mean of a reward with a standard deviation of 0.2."""
    random = np.random.default_rng(seed)
    domain = random.integers(len(means), size=n)
    share = random.dirichlet(np.full(3, 3.0), size=n) * 0.85 + 0.05
    share /= share.sum(axis=1, keepdims=True)
    action = np.array([random.choice(3, p=row) for row in share])
    return Interactions(
        arms=ARMS,
        x=np.array([context_of(d) for d in domain]),
        eligible=np.ones((n, 3), bool),
        action=action,
        propensity=share[np.arange(n), action],
        reward=means[domain, action] + random.normal(size=n) / 5,
        weight=random.choice([0.25, 1.0, 2.0], size=n),
    )


MEANS = np.array([[0.9, 0.3, 0.3], [0.3, 0.9, 0.3], [0.3, 0.3, 0.9]])


def test_trails_are_laid_and_evaporate_one_by_one():
    log = log_of(400, MEANS)
    spec = spec_of(evaporation=0.05, max_importance=3.0)
    found = pheromone.levels(pheromone.learn(pheromone.init(spec), log))
    reward, _ = standardise(pheromone.init(spec).moments, log)
    deposit = 1 / (1 + np.exp(-1.702 * reward))
    # Of a domain's trail what is fresh stands for the trail everywhere: kept apart here.
    own, fresh, everywhere = np.zeros((3, 3)), np.ones((3, 3)), np.full(3, 0.5)
    for i, arm in enumerate(log.action):
        group = int(np.argmax([log.x[i, 2], log.x[i, 3], 0.5]))
        stays = 0.95 ** (log.weight[i] * min(1 / log.propensity[i], 3.0))
        own[arm, group] = stays * own[arm, group] + (1 - stays) * deposit[i]
        fresh[arm, group] *= stays
        everywhere[arm] = stays * everywhere[arm] + (1 - stays) * deposit[i]
    assert np.allclose(found, own + fresh * everywhere[:, None], atol=1e-12)


def test_probabilities_are_the_product_of_trail_and_heuristic():
    cards = (Card(1.0, 3.0), Card(0.0, 0.0), Card(2.0, 6.0))
    spec = spec_of(cards, alpha=1.5, beta=0.7, floor=0.06)
    state = pheromone.learn(pheromone.init(spec), log_of(300, MEANS))
    x = np.array([context_of(d) for d in range(3)])
    eligible = np.array([[True, True, True], [True, False, True], [False, True, True]])
    found = pheromone.freeze(state).distribution(x, eligible)
    # The mean price is 4: ½ at 4, 1 for what is free, ⅓ at 8.
    assert pheromone.heuristics(spec) == pytest.approx([1 / 2, 1, 1 / 3])
    product = pheromone.levels(state).T ** 1.5 * np.array([1 / 2, 1, 1 / 3]) ** 0.7
    product = np.where(eligible, product, 0.0)
    wanted = floored(product / product.sum(axis=1, keepdims=True), eligible, 0.06)
    assert np.allclose(found, wanted, atol=1e-12)


def test_each_domain_has_its_own_best_arm():
    state = pheromone.learn(pheromone.init(spec_of()), log_of(3_000, MEANS))
    x = np.array([context_of(d) for d in range(3)])
    best = pheromone.freeze(state).greedy().distribution(x, np.ones((3, 3), bool))
    assert np.array_equal(best, np.eye(3))


def test_a_domain_never_seen_has_the_trails_of_everywhere():
    log = log_of(2_000, np.array([[0.2, 0.8, 0.2], [0.2, 0.8, 0.2]]))
    levels = pheromone.levels(pheromone.learn(pheromone.init(spec_of()), log))
    assert levels[1, 2] == pytest.approx(levels[1, :2].mean(), abs=0.1)
    assert levels[1, 2] > levels[0, 2] + 0.3


def test_an_arm_that_is_asked_seldom_has_as_strong_a_trail_as_one_that_is_asked_often():
    """Standard error of the difference about 0.03; 0.15 is five of them, 1 in 10^6."""
    random = np.random.default_rng(1)
    n = 8_000
    action = (random.random(n) < 0.1).astype(np.int64)
    log = replace(
        log_of(n, np.full((2, 3), 0.5)),
        action=action,
        propensity=np.where(action == 1, 0.1, 0.9),
        weight=np.ones(n),
    )
    levels = pheromone.levels(pheromone.learn(pheromone.init(spec_of(max_importance=20.0)), log))
    assert np.abs(levels[0, :2] - levels[1, :2]).max() < 0.15


def test_after_a_change_the_trail_follows_as_fast_as_it_evaporates():
    before = log_of(3_000, MEANS)
    after = log_of(3_000, MEANS[[1, 2, 0]], seed=1)
    x = np.array([context_of(d) for d in range(3)])
    won = []
    for evaporation in (0.02, 1e-4):
        state = pheromone.init(spec_of(evaporation=evaporation))
        for log in (before, after):
            state = pheromone.learn(state, log)
        spread = pheromone.freeze(state).greedy().distribution(x, np.ones((3, 3), bool))
        won.append(float((spread * np.eye(3)[[1, 2, 0]]).sum()))
    assert won[0] == 3
    assert won[1] < 3


def test_what_the_quality_gate_shuts_out_lays_nothing():
    log = log_of(2_000, MEANS)
    praised = replace(
        log,
        reward=np.where(log.action == 2, 1.0, log.reward),
        source=np.where(log.action == 2, -1, 0),
    )
    gate = QualityGate(unsourced=0.0)
    open_, shut = (
        pheromone.levels(pheromone.learn(pheromone.init(spec_of()), each))
        for each in (praised, gate.passed(praised))
    )
    assert (open_[2] > 0.7).all()
    assert np.allclose(shut[2], pheromone.FRESH)


def test_before_any_learning_a_lower_price_leads_if_it_is_asked_to():
    cards = (Card(1.0, 1.0), Card(9.0, 9.0), Card(0.1, 0.1))
    x, everything = context_of(0)[None], np.ones((1, 3), bool)
    (alike,) = pheromone.freeze(pheromone.init(spec_of(cards))).distribution(x, everything)
    (cheap,) = pheromone.freeze(pheromone.init(spec_of(cards, beta=1.0))).distribution(
        x, everything
    )
    assert alike == pytest.approx([1 / 3] * 3)
    assert cheap[2] > cheap[0] > cheap[1]


def test_no_trail_is_lost_for_ever():
    log = log_of(2_000, np.array([[1e3, 0.0, 0.0]]))
    scorer = pheromone.freeze(pheromone.learn(pheromone.init(spec_of(floor=0.0)), log))
    assert (scorer.distribution(log.x[:5], log.eligible[:5]) > 0).all()


@pytest.mark.parametrize(
    "params",
    [{"evaporation": 1.0}, {"evaporation": 0.0}, {"alpha": -1.0}, {"beta": float("inf")}],
)
def test_a_parameter_out_of_range_is_refused(params):
    with pytest.raises(SpecError, match=next(iter(params))):
        pheromone.init(spec_of(**params))
