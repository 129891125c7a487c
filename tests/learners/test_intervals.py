import math

import numpy as np
import pytest
from scipy import stats

from learners.errors import EstimateError
from learners.intervals import (
    MOST_GROUPS,
    bootstrap,
    clustered,
    empirical_bernstein,
    normal,
    student_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 5, 30, 1_000, 99_999])
@pytest.mark.parametrize("p", [0.01, 0.6, 0.975, 0.99999])
def test_students_quantile_is_scipys(p, degrees):
    assert student_quantile(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=1e-9)


def test_beyond_100_000_degrees_student_is_normal():
    assert student_quantile(0.975, 10**6) == pytest.approx(stats.t.ppf(0.975, 10**6), rel=1e-4)


def test_the_normal_interval_is_students_one_of_the_mean():
    values = np.random.default_rng(0).uniform(size=12)
    found = normal(values, level=0.9)
    expected = stats.t.interval(0.9, 11, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.n, found.effective_n, found.level) == (12, 12, 0.9)


def test_degrees_of_freedom_are_all_for_normal_values_and_few_where_few_rows_carry_the_variance():
    random = np.random.default_rng(0)
    assert clustered(random.normal(size=100_000)).degrees == pytest.approx(100_000, rel=0.05)
    rare = np.zeros(5_000)
    rare[:40] = 20.0
    assert clustered(rare).degrees == pytest.approx(40, abs=2)
    assert clustered(np.append(np.zeros(99), 1.0)).degrees == 1
    assert clustered(np.full(30, 0.3)).degrees == 29


def test_the_normal_interval_covers_rewards_whose_weights_are_heavy():
    # An arm served with 2 %, weighed 50, right half of the time: some 30 rows of 1,500 count.
    def draw(random):
        return 50.0 * (random.random(1_500) < 0.02) * (random.random(1_500) < 0.5)

    above, below = misses(lambda values, _: normal(values), draw, 0.5, 2_000)
    # A binomial 5 % of 2,000 has a deviation of 9.7; with 1,499 degrees there are some 150 misses.
    assert above + below <= 100 + 3 * 9.7


def test_clusters_of_one_row_are_no_clusters():
    values = np.random.default_rng(0).normal(size=300)
    each = np.arange(300)
    alone = np.full(300, -1)
    for interval in (normal, lambda v, **k: empirical_bernstein(v, (-9, 9), **k)):
        plain, own, negative = (interval(values, clusters=c) for c in (None, each, alone))
        assert own == negative == plain


def test_a_cluster_copied_tells_no_more_than_once():
    values = np.random.default_rng(0).normal(size=40)
    once = normal(values)
    copied = normal(np.repeat(values, 5), clusters=np.repeat(np.arange(40), 5))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert (copied.n, copied.effective_n) == (200, 40)


def test_clusters_of_uneven_size_are_linearised():
    random = np.random.default_rng(1)
    size = random.integers(1, 9, size=4_000)
    cluster = np.repeat(np.arange(4_000), size)

    def rows():
        return random.normal(size=4_000)[cluster] + random.normal(size=len(cluster))

    # The deviation of 300 means is known to 4 %; three times that.
    means = [rows().mean() for _ in range(300)]
    assert clustered(rows(), cluster).standard_error == pytest.approx(np.std(means), rel=0.12)


def test_one_cluster_says_nothing():
    found = normal(np.array([1.0, 2.0]), clusters=np.array([7, 7]))
    assert (found.low, found.high) == (-math.inf, math.inf)
    drawn = bootstrap(np.array([1.0, 2.0]), clusters=np.array([7, 7]), seed=0)
    assert (drawn.low, drawn.high) == (-math.inf, math.inf)
    sure = empirical_bernstein(np.array([1.0, 2.0]), (0.0, 3.0), clusters=np.array([7, 7]))
    assert (sure.low, sure.high) == (0.0, 3.0)


def misses(interval, draw, truth: float, runs: int) -> tuple[int, int]:
    """How often the interval lies above and below the truth."""
    above = below = 0
    for seed in range(runs):
        found = interval(draw(np.random.default_rng(seed)), seed)
        above += found.low > truth
        below += found.high < truth
    return above, below


def weighted(random: np.random.Generator) -> np.ndarray:
    """400 importance-weighted rewards of a log that gives the arm 1 in 20; their mean is 0.6."""
    return np.where(random.random(400) < 0.05, 20.0, 0.0) * (random.random(400) < 0.6)


def test_the_bootstrap_follows_skew_where_the_normal_interval_does_not():
    runs = 300
    _, below = misses(lambda v, _: normal(v), weighted, 0.6, runs)
    above_b, below_b = misses(lambda v, s: bootstrap(v, seed=s, resamples=399), weighted, 0.6, runs)
    # 2.5 % is 7.5 of 300 on each side. Measured: 20 below for normal.
    assert below >= 13
    assert below_b <= 13
    assert above_b <= 18


def test_the_bootstrap_is_the_same_for_the_same_seed_and_bounded_in_groups():
    values = np.random.default_rng(0).exponential(size=3 * MOST_GROUPS)
    first, again, other = (bootstrap(values, seed=seed, resamples=1_199) for seed in (1, 1, 2))
    assert first == again
    assert other != first
    plain = normal(values)
    assert first.low == pytest.approx(plain.low, abs=0.3 * plain.standard_error)
    assert first.high == pytest.approx(plain.high, abs=0.3 * plain.standard_error)


def test_the_bootstrap_keeps_clusters_together():
    values = np.random.default_rng(0).normal(size=200)
    once = bootstrap(values, seed=0)
    copied = bootstrap(np.repeat(values, 4), clusters=np.repeat(np.arange(200), 4), seed=0)
    assert copied.low == pytest.approx(once.low)
    assert copied.high == pytest.approx(once.high)


def test_empirical_bernstein_is_the_papers_formula():
    values = np.array([0.0, 1.0, 1.0, 0.5, 0.25, 1.0, 0.0, 0.75] * 40)
    found = empirical_bernstein(10.0 * values, (0.0, 10.0), level=0.9)
    n, rest = 320, math.log(2 / 0.05)
    half = math.sqrt(2 * values.var(ddof=1) * rest / n) + 7 * rest / (3 * (n - 1))
    assert found.low == pytest.approx(10 * (values.mean() - half))
    assert found.high == pytest.approx(10 * (values.mean() + half))


def test_empirical_bernstein_holds_where_the_normal_interval_fails():
    def rare(random):
        return (random.random(100) < 0.01).astype(float)

    holds = misses(lambda v, _: empirical_bernstein(v, (0.0, 1.0)), rare, 0.01, 300)
    _, below = misses(lambda v, _: normal(v), rare, 0.01, 300)
    assert holds == (0, 0)
    assert below > 60


def test_with_large_clusters_empirical_bernstein_is_wider():
    values = np.random.default_rng(0).random(1_000)
    even = empirical_bernstein(values, (0.0, 1.0), clusters=np.arange(1_000) // 10)
    one_large = np.where(np.arange(1_000) < 300, 0, np.arange(1_000))
    assert even.high - even.low > 1.2 * (
        empirical_bernstein(values, (0.0, 1.0)).high - empirical_bernstein(values, (0.0, 1.0)).low
    )
    assert empirical_bernstein(values, (0.0, 1.0), clusters=one_large).high == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normal(np.array([])), "at least one"),
        (lambda: normal(np.array([1.0, math.nan])), "row 1"),
        (lambda: normal(np.ones(3), level=1.0), "level 1"),
        (lambda: normal(np.ones(3), clusters=np.zeros(2, dtype=int)), "clusters"),
        (lambda: bootstrap(np.ones(3), seed=0, resamples=19), "too few"),
        (lambda: empirical_bernstein(np.ones(3), (2.0, 3.0)), "leave the span"),
        (lambda: empirical_bernstein(np.ones(3), (3.0, 2.0)), "the lower first"),
    ],
)
def test_what_has_no_interval_is_refused(call, message):
    with pytest.raises(EstimateError, match=message):
        call()
