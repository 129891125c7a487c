from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from controlplane.candidates import MIN_TRIED, Candidate, Incumbent, train, weigh
from controlplane.config import (
    GateConfig,
    LearnerConfig,
    PolicyConfig,
    PriorConfig,
    QualityConfig,
)
from controlplane.round_log import RoundLog, preferences
from learners.errors import LearnersError
from learners.exploration import Exploration
from learners.interactions import Interactions
from learners.records import Arm, Interaction
from learners.scorers.linear import Linear

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


def newer_log(n: int = 400) -> list[Interaction]:
    random = np.random.default_rng(1)
    return [
        Interaction(
            decision_id=str(i),
            at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=i),
            context={"code": bool(random.integers(2)), "terms": random.normal(size=3).tolist()},
            eligible=tuple(arm.name for arm in ARMS),
            action=ARMS[random.integers(3)].name,
            propensity=1 / 3,
            reward=float(random.random()),
            position=i + 1,
        )
        for i in range(n)
    ]


def overflowing(candidate: Candidate) -> Candidate:
    """Finite weights, and scores that are not: their sum over the columns is too large."""
    weights = np.full((len(ARMS), candidate.scorer.dimension), 1e308)
    scorer = Linear(candidate.scorer.arms, weights, Exploration("greedy"))
    return replace(candidate, scorer=scorer)


def weighed(
    found: list[Candidate],
    config: PolicyConfig,
    champion: Incumbent,
    rows: list[Interaction] | None = None,
):
    rows = newer_log() if rows is None else rows
    batch = ([replace(row, context=preferences(row.context)) for row in rows],
             [row.context for row in rows])  # fmt: skip
    read = RoundLog.read([batch], (config.schema, config.schema), limit=len(rows))
    return weigh(read.rows, found, champion, config, read=read, look=1)


def test_a_candidate_whose_scores_overflow_takes_no_other_with_it() -> None:
    config = PolicyConfig(
        features=FEATURES, learners=(LearnerConfig("linucb"), LearnerConfig("vw"))
    )
    found, failed = train(gamed_log(), config, ARMS, seed=0)
    assert failed == {}
    champion = Incumbent(7, found[-1].scorer)
    alone, _ = weighed(found, config, champion)
    broken = [overflowing(one) if one.learner.name == "vw" else one for one in found]
    rest, failed = weighed(broken, config, champion)
    assert list(failed) == ["vw"]
    assert "too large" in failed["vw"]
    # The failed one still counts in the level, so the others' intervals are what they were.
    kept = [(one, evidence) for one, evidence in alone if one.learner.name != "vw"]
    assert [one.learner.name for one, _ in rest] == ["linucb", "best_fixed"]
    assert rest == kept


@pytest.mark.parametrize("unit", ["session", "episode"])
def test_rows_of_one_session_or_episode_count_as_one(unit: str) -> None:
    config = PolicyConfig(features=FEATURES, learners=(LearnerConfig("linucb"),))
    found, _ = train(gamed_log(), config, ARMS, seed=0)
    champion = Incumbent(7, found[-1].scorer)

    def evidence(rows: list[Interaction]):
        numbered = [replace(row, position=i + 1) for i, row in enumerate(rows)]
        return weighed(found, config, champion, numbered)[0][0][1]

    alone = newer_log()
    repeated = [row for row in alone for _ in range(4)]
    belonging = [
        replace(row, session_id=row.decision_id)
        if unit == "session"
        else replace(row, episode_id=row.decision_id)
        for row in repeated
    ]
    one, four, together = (evidence(rows) for rows in (alone, repeated, belonging))
    assert one is not None
    assert four is not None
    assert together is not None
    assert together.judged == four.judged == 1_600
    for name in ("value", "champion", "over_champion", "mean_weight"):
        truth, naive, found_ = (getattr(each, name) for each in (one, four, together))
        assert naive.standard_error == pytest.approx(truth.standard_error / 2, rel=0.05)
        assert found_.standard_error == pytest.approx(truth.standard_error, rel=0.05)
        assert found_.effective_n == pytest.approx(truth.effective_n)
        assert naive.effective_n == pytest.approx(4 * truth.effective_n)


def test_a_judging_part_of_which_too_much_cannot_judge_is_refused_where_asked() -> None:
    (linucb, fixed), _ = train(
        gamed_log(),
        PolicyConfig(features=FEATURES, learners=(LearnerConfig("linucb"),)),
        ARMS,
        seed=0,
    )
    rows = [replace(row, position=3 * row.position) for row in newer_log()]
    passed = {}
    for most in (1.0, 0.5):
        config = PolicyConfig(
            features=FEATURES,
            learners=(LearnerConfig("linucb"),),
            gate=GateConfig(max_unjudged=most),
        )
        found, _ = weighed([linucb, fixed], config, Incumbent(7, fixed.scorer), rows)
        assert found[0][1] is not None
        (one,) = [each for each in found[0][1].diagnostics if each.name == "unjudged"]
        assert one.value == pytest.approx(2 / 3, abs=1e-3)
        passed[most] = one.passed
    assert passed == {1.0: True, 0.5: False}


def test_a_round_whose_baseline_or_champion_overflows_fails() -> None:
    config = PolicyConfig(features=FEATURES, learners=(LearnerConfig("linucb"),))
    (linucb, fixed), _ = train(gamed_log(), config, ARMS, seed=0)
    with pytest.raises(LearnersError, match="too large"):
        weighed([linucb, overflowing(fixed)], config, Incumbent(7, fixed.scorer))
    with pytest.raises(LearnersError, match="too large"):
        weighed([linucb, fixed], config, Incumbent(7, overflowing(fixed).scorer))


def rated_log(n: int = 150) -> Interactions:
    """Six arms, each as good as its place; the last served a dozen times."""
    random = np.random.default_rng(1)
    x = np.ones((n, 5))
    x[:, 2:] = random.normal(size=(n, 3))
    action = np.where(np.arange(n) % 12 == 11, 5, np.arange(n) % 5)
    return Interactions(
        arms=tuple(arm.name for arm in RATED),
        x=x,
        eligible=np.ones((n, 6), bool),
        action=action,
        propensity=np.full(n, 1 / 6),
        reward=(random.random(n) < (action + 1) / 8).astype(float),
        weight=np.ones(n),
        at=np.arange(n, dtype=float),
    )


RATED = tuple(Arm(name, name, "http://127.0.0.1/v1") for name in "abcdef")


def rated_config(prior: PriorConfig) -> PolicyConfig:
    learners = (LearnerConfig("linucb"), LearnerConfig("uniform"))
    return PolicyConfig(features=FEATURES, learners=learners, prior=prior)


def test_ratings_reach_the_learners_and_neither_the_baseline_nor_the_references() -> None:
    ratings = {arm.name: 1000.0 + 50 * place for place, arm in enumerate(RATED)}
    plain, rated = (
        {c.learner.name: c for c in train(rated_log(), rated_config(prior), RATED, seed=0)[0]}
        for prior in (PriorConfig(), PriorConfig(ratings, 30.0))
    )
    changed = {name for name in plain if plain[name].snapshot != rated[name].snapshot}
    assert changed == {"linucb"}
    x = rated_log().x
    score = {
        kind: found["linucb"].scorer.greedy().scores(x)[:, 5].mean()
        for kind, found in (("plain", plain), ("rated", rated))
    }
    assert abs(score["rated"] - 0.75) < abs(score["plain"] - 0.75)


def test_the_same_log_and_ratings_give_the_same_bytes() -> None:
    prior = PriorConfig({arm.name: float(place) for place, arm in enumerate(RATED)})
    one, two = (train(rated_log(), rated_config(prior), RATED, seed=0)[0] for _ in range(2))
    assert [c.snapshot for c in one] == [c.snapshot for c in two]


def test_an_arm_of_few_interactions_is_left_to_the_floor_however_it_is_rated() -> None:
    log = rated_log()
    rare = log.action == 5
    log = log.rows(~rare | (np.cumsum(rare) < MIN_TRIED))
    ratings = {arm.name: 1000.0 + 50 * place for place, arm in enumerate(RATED)}
    found, _ = train(log, rated_config(PriorConfig(ratings, 1_000.0)), RATED, seed=0)
    scores = found[0].scorer.greedy().scores(log.x)
    assert scores[:, 5] == pytest.approx(scores[:, :5].mean(axis=1))
