import numpy as np
import pytest
from scipy import stats

from bench.rivals import domain_codes
from bench.rivals_sampling import RoutingSampling, make
from controlplane.replay_loop import prepare
from controlplane.simulation.tables import Table

FALSE_ALARM = 1e-6
"""Of one chi-square test; the seed is fixed, so what passes once passes always."""


def told(rival, domain, arm, good, poor):
    for reward, times in ((1.0, good), (0.0, poor)):
        for _ in range(times):
            rival.update(domain, arm, reward)


def shares(rival, domain, n=20_000):
    units = (np.arange(n) + 0.5) / n
    return np.bincount([rival.choose(domain, float(u)) for u in units], minlength=2)


def test_it_draws_from_the_counts_and_two_interactions_of_even_odds_and_one_each_way():
    rival = RoutingSampling(2, ["code"], seed=3)
    told(rival, "code", 0, 3, 2)
    told(rival, "code", 1, 4, 2)
    random = np.random.default_rng(0)
    first, second = random.beta(5, 4, size=10**6) + 0.001, random.beta(6, 4, size=10**6)
    expected = np.array([(first >= second).mean(), (first < second).mean()])
    assert stats.chisquare(shares(rival, "code"), expected * 20_000).pvalue > FALSE_ALARM


def test_the_same_chance_draws_the_same_model():
    rival = RoutingSampling(5, seed=1)
    assert [rival.choose(None, u / 50) for u in range(50)] == [
        rival.choose(None, u / 50) for u in range(50)
    ]


def test_one_outcome_in_a_domain_replaces_all_that_other_domains_have_told():
    rival = RoutingSampling(2, ["code", "law"])
    told(rival, "code", 1, 100, 0)
    assert rival.best("law") == 1
    rival.update("law", 1, 0.0)
    assert rival.best("law") == 0


def test_an_unknown_domain_goes_by_the_counts_of_all():
    rival = RoutingSampling(2, ["code"])
    told(rival, "code", 1, 10, 0)
    assert rival.best("poetry") == rival.best(None) == 1
    told(rival, None, 1, 0, 1)
    assert rival._odds(None, 1) == (12.0, 3.0)


def test_how_good_an_outcome_was_is_not_counted():
    rival = RoutingSampling(2)
    rival.update(None, 0, 0.5)
    rival.update(None, 1, 0.99)
    assert rival._odds(None, 0) == rival._odds(None, 1)


def test_a_configured_quality_is_dropped_at_the_first_outcome():
    rival = RoutingSampling(2, quality=[0.0, 0.9])
    assert rival.best(None) == 1
    assert rival._odds(None, 1) == pytest.approx((2.8, 1.2))
    rival.update(None, 1, 1.0)
    assert rival._odds(None, 1) == (3.0, 2.0)


def test_a_dearer_model_than_the_base_is_charged_twice():
    def better(good):
        rival = RoutingSampling(2, prices=[0.0, 10.0])
        told(rival, None, 0, 50, 46)
        told(rival, None, 1, good, 96 - good)
        return rival.best(None)

    # Means are (good + 2) / 100: the base has .52 (and .001), the other pays .04 and then .04.
    assert better(58) == 0
    assert better(59) == 1


def a_table(n):
    """Model 0 knows law, model 1 all else; neither has a price."""
    law = np.arange(n) % 2 == 0
    return Table(
        query_ids=tuple(f"q{i}" for i in range(n)),
        texts=None,
        domains=tuple("law" if one else "maths" for one in law),
        arms=("first", "second"),
        scores=np.column_stack([law, ~law]).astype(float),
        costs_usd=np.zeros((n, 2)),
    )


def test_over_a_table_it_finds_the_model_of_each_domain():
    course = prepare(a_table(200), a_table(20), "score")
    rival = make(course, 0)
    for row in range(200):
        arm = rival.choose(row)
        rival.update(row, arm, float(course.train.rewards[row, arm]))
    chosen = rival.choices(course.test.x, domain_codes(course, course.test.domains, 20))
    assert chosen.tolist() == [0, 1] * 10
