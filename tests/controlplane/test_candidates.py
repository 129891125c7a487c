import numpy as np
import pytest

from controlplane.candidates import MIN_TRIED, train
from controlplane.config import LearnerConfig, PolicyConfig, QualityConfig
from learners.interactions import Interactions
from learners.records import Arm

ARMS = tuple(Arm(name, name, "http://127.0.0.1/v1") for name in ("honest", "gamed", "rare"))
FEATURES = ({"name": "code", "kind": "flag"}, {"name": "terms", "kind": "vector", "size": 3})


def config_of(name: str, quality: QualityConfig | None) -> PolicyConfig:
    return PolicyConfig(features=FEATURES, learners=(LearnerConfig(name, {}, quality),))


def gamed_log(n: int = 1_200) -> Interactions:
    """Source 0 likes the honest arm; rows of no source, twice as many, praise the gamed one."""
    random = np.random.default_rng(0)
    x = np.ones((n, 5))
    x[:, 1] = random.random(n) < 0.5
    x[:, 2:] = random.normal(size=(n, 3))
    action = random.integers(2, size=n)
    action[:MIN_TRIED] = 2
    source = np.where(random.random(n) < 1 / 3, 0, -1)
    likes = np.where(source == 0, action == 0, action == 1)
    reward = (random.random(n) < np.where(likes, 0.9, 0.1)).astype(float)
    return Interactions(
        arms=tuple(arm.name for arm in ARMS),
        x=x,
        eligible=np.ones((n, 3), bool),
        action=action,
        propensity=np.full(n, 1 / 3),
        reward=reward,
        weight=np.ones(n),
        at=np.arange(n, dtype=float),
        source=source,
    )


@pytest.mark.parametrize("name", ["best_fixed", "linucb", "neighbours", "pheromone", "river", "vw"])
def test_any_learner_learns_behind_its_quality_gate(name: str) -> None:
    log = gamed_log()
    chosen = {}
    for gate in (None, QualityConfig(unsourced=0.0)):
        found, failed = train(log, config_of(name, gate), ARMS, seed=0)
        assert failed == {}
        spread = found[0].scorer.greedy().distribution(log.x, log.eligible)
        chosen[gate is not None] = spread.mean(axis=0)
    print(name, chosen)
    assert chosen[False][1] > 0.9
    assert chosen[True][0] > 0.9


def test_the_gate_of_one_learner_is_not_that_of_the_others() -> None:
    log = gamed_log()
    found, _ = train(log, config_of("linucb", QualityConfig(unsourced=0.0)), ARMS, seed=0)
    best = {c.learner.name: c.scorer.greedy().distribution(log.x, log.eligible) for c in found}
    assert best["linucb"][:, 0].mean() > 0.9
    assert best["best_fixed"][:, 1].mean() > 0.9


def test_a_learner_whose_library_fails_takes_no_other_with_it() -> None:
    config = PolicyConfig(
        features=FEATURES, learners=(LearnerConfig("vw", {"rate": 1e300}), LearnerConfig("linucb"))
    )
    found, failed = train(gamed_log(), config, ARMS, seed=0)
    assert [one.learner.name for one in found] == ["linucb", "best_fixed"]
    assert list(failed) == ["vw"]
    assert failed["vw"]
