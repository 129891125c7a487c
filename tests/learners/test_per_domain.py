from dataclasses import replace

import numpy as np
import pytest

from learners import best_fixed, per_domain
from learners.contract import Spec
from learners.features import Feature, Schema
from learners.interactions import Interactions

ARMS = ("a", "b", "c", "d")
NAMES = tuple(f"domain-{i}" for i in range(10))
SCHEMA = Schema((Feature("domain", "category", values=NAMES),))
X = SCHEMA.encode_all([{"domain": name} for name in NAMES])


def log_of_chances(chances, n, seed):
    """n uniform choices whose rewards are 0 or 1 by the chances (K, G)."""
    random = np.random.default_rng(seed)
    domain, action = random.integers(len(NAMES), size=n), random.integers(len(ARMS), size=n)
    return Interactions(
        arms=ARMS,
        x=X[domain],
        eligible=np.ones((n, len(ARMS)), bool),
        action=action,
        propensity=np.full(n, 1 / len(ARMS)),
        reward=(random.random(n) < chances[action, domain]).astype(float),
        weight=np.ones(n),
    )


def chosen(learner, log):
    state = learner.learn(learner.init(Spec(SCHEMA, ARMS)), log)
    return learner.freeze(state).scores(X).argmax(axis=1)


def earned(learner, chances, n, seeds):
    """Mean chance of success of the arms that it chooses, a seed each."""
    found = []
    for seed in range(seeds):
        arms = chosen(learner, log_of_chances(chances, n, seed))
        found.append(chances[arms, np.arange(len(NAMES))].mean())
    return np.array(found)


def test_where_domains_do_not_differ_it_loses_almost_nothing_to_the_fixed_arm():
    hard = np.linspace(-0.2, 0.2, len(NAMES))
    chances = np.array([0.35, 0.45, 0.5, 0.6])[:, None] + hard
    difference = earned(per_domain, chances, 1_000, 40) - earned(best_fixed, chances, 1_000, 40)
    # 25 rows a cell: the best of each cell alone would lose .03. False alarm below 1 in 10,000.
    assert difference.mean() > -0.005 - 4 * difference.std() / np.sqrt(40)
    same = [
        (
            chosen(per_domain, log_of_chances(chances, 1_000, seed))
            == chosen(best_fixed, log_of_chances(chances, 1_000, seed))
        ).mean()
        for seed in range(40)
    ]
    assert np.mean(same) > 0.9


def test_where_domains_differ_it_finds_the_best_arm_of_each():
    chances = np.full((len(ARMS), len(NAMES)), 0.4)
    chances[np.arange(len(NAMES)) % len(ARMS), np.arange(len(NAMES))] = 0.8
    assert earned(per_domain, chances, 2_000, 10).mean() > 0.79
    assert earned(best_fixed, chances, 2_000, 10).mean() < 0.55


def test_without_a_domain_it_is_the_best_fixed_arm(log_of):
    schema = Schema((Feature("chars", "number"),))
    full = log_of(300, 4)
    log = replace(full, x=full.x[:, :2])
    spec = Spec(schema, log.arms)
    first, second = (
        learner.freeze(learner.learn(learner.init(spec), log)).scores(log.x)
        for learner in (per_domain, best_fixed)
    )
    assert np.allclose(first, second, rtol=0, atol=1e-9)


def test_a_domain_that_no_schema_names_gets_what_the_arms_do_everywhere():
    chances = np.array([0.2, 0.4, 0.6, 0.8])[:, None] + np.zeros((1, len(NAMES)))
    log = log_of_chances(chances, 2_000, 0)
    state = per_domain.learn(per_domain.init(Spec(SCHEMA, ARMS)), log)
    (scores,) = per_domain.freeze(state).scores(SCHEMA.encode_all([{"domain": "poetry"}]))
    # 500 rows an arm: a standard error of .022.
    assert np.abs(scores - chances[:, 0]).max() < 0.1


def test_an_arm_that_a_domain_has_not_seen_is_not_flattered_by_a_hard_domain():
    hard = np.where(np.arange(len(NAMES)) == 0, -0.35, 0.0)
    chances = np.array([0.5, 0.5, 0.5, 0.45])[:, None] + hard
    log = log_of_chances(chances, 4_000, 1)
    kept = log.rows(~((log.action == 3) & (log.x[:, 1] == 1)))
    scores = per_domain.freeze(per_domain.learn(per_domain.init(Spec(SCHEMA, ARMS)), kept)).scores(
        X
    )
    assert scores[0, 3] == pytest.approx(0.1, abs=0.1)
