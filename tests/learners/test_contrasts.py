import math

import numpy as np
import pytest
from scipy import stats

from bench import evidence_sequences as bench
from learners.contrasts import (
    FEWEST_UNITS,
    SRM_ALARM,
    SRM_PRIOR,
    Sums,
    difference,
    e_benjamini_hochberg,
    holm,
    sample_ratio,
    sums,
)
from learners.errors import EstimateError
from learners.intervals import clustered
from learners.sequences import Asymptotic

HALVES = {"control": 0.5, "new": 0.5}


def two_sides(seed: int, n: int = 2_000, *, users: int = 400, gain: float = 0.0):
    """Rows of users that come back, with a covariate that explains most of their taste."""
    random = np.random.default_rng(seed)
    taste = random.normal(size=users)
    known = taste + 0.3 * random.normal(size=users)
    side = random.random(users) < 0.5
    unit = random.integers(users, size=n)
    value = taste[unit] + random.normal(size=n) + gain * side[unit]
    return [sums(value[mine], unit[mine], known[unit[mine]]) for mine in (~side[unit], side[unit])]


def test_a_variants_standard_error_is_that_of_its_clusters():
    random = np.random.default_rng(0)
    values, unit = random.normal(size=900), random.integers(150, size=900)
    nothing = sums(np.zeros(10**6), np.arange(10**6))
    found = difference(nothing, sums(values, unit))
    expected = clustered(values, unit)
    assert found.value == pytest.approx(expected.mean)
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert (found.units, found.fewest) == (1_000_150, 150)


def test_units_of_one_row_give_the_sequence_of_the_paper():
    values = np.random.default_rng(0).normal(size=500)
    mine = difference(sums(np.zeros(10**6), np.arange(10**6)), sums(values, np.arange(500)))
    alone = mine.interval(planned_rows=1_000_500)
    assert mine.information == pytest.approx(1_000_500, rel=1e-9)
    # Both are tuned for as many as there are.
    state = Asymptotic(500).update(values)
    assert alone.high - alone.low == pytest.approx(state.bounds()[1] - state.bounds()[0], rel=2e-3)


def test_information_counts_rows_once_however_units_are_alike():
    values = np.random.default_rng(0).normal(size=300)
    once = sums(values, np.arange(300))
    thrice = sums(np.repeat(values, 3), np.repeat(np.arange(300), 3))
    single, tripled = difference(once, once), difference(thrice, thrice)
    assert tripled.standard_error == pytest.approx(single.standard_error)
    # Of three equal rows the sum varies nine times as much as one: three times as three.
    assert tripled.information == pytest.approx(3 * 3 * single.information)


def test_a_covariate_takes_out_what_it_explains_and_moves_no_mean():
    plain, adjusted = [], []
    for seed in range(200):
        control, new = two_sides(seed, gain=0.2)
        plain.append(difference(control, new))
        adjusted.append(difference(control, new, cuped=True))
    for found in (plain, adjusted):
        values = [each.value for each in found]
        errors = [each.standard_error for each in found]
        # Four standard errors of the mean of 200; the deviation of 200 is known to 5 %.
        assert np.mean(values) == pytest.approx(0.2, abs=4 * float(np.std(values)) / math.sqrt(200))
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)
    assert np.mean([each.explained for each in adjusted]) > 0.5
    assert np.std([each.value for each in adjusted]) < 0.75 * np.std([e.value for e in plain])


def test_without_a_covariate_cuped_changes_nothing():
    random = np.random.default_rng(0)
    control, new = (sums(random.normal(size=300), np.arange(300)) for _ in range(2))
    assert difference(control, new, cuped=True) == difference(control, new)


def test_few_units_say_nothing():
    few = sums(np.ones(FEWEST_UNITS - 1), np.arange(FEWEST_UNITS - 1))
    many = sums(np.zeros(5_000), np.arange(5_000))
    found = difference(many, few)
    shown = found.interval(planned_rows=1_000)
    assert (shown.low, shown.high) == (-math.inf, math.inf)
    assert found.e_value(planned_rows=1_000) == 1.0
    assert math.isnan(difference(Sums(), many).value)
    assert difference(Sums(), many).standard_error == math.inf


def test_a_difference_without_any_noise_is_as_good_as_certain():
    zeros, ones = (sums(np.full(200, x), np.arange(200)) for x in (0.0, 1.0))
    assert difference(zeros, ones).e_value(planned_rows=400) > 1e300
    assert difference(ones, ones).e_value(planned_rows=400) < 1.0


@pytest.mark.parametrize(("control", "variant"), [(0.005, 0.0155), (0.001, 0.0115)])
def test_units_without_a_failure_do_not_show_that_failures_are_no_more(control, variant):
    """Truly worse by more than 0.01: shown to hold at some look in 5 of 100, 300 runs."""
    random, wrong, n = np.random.default_rng(0), 0, 2_000
    for _ in range(300):
        failed = [(random.random(n) < rate).astype(float) for rate in (control, variant)]
        for look in range(FEWEST_UNITS, n + 1, 100):
            units = np.arange(look)
            gap = difference(*(sums(one[:look], units) for one in failed))
            if gap.interval(planned_rows=4_000, side="high").high < 0.01:
                wrong += 1
                break
    assert wrong <= stats.binom.isf(1e-3, 300, 0.05)


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0])
def test_values_that_are_all_alike_bound_a_difference_by_how_many_they_are(value):
    bounds = []
    for n in (100, 1_000, 10_000):
        alike = sums(np.full(n, value), np.arange(n) // 2)
        found = difference(alike, alike).interval(planned_rows=2.0 * n)
        assert found.value == 0.0
        bounds.append(found.high)
    assert bounds[0] == math.inf  # 50 units
    assert bounds[1] == pytest.approx(10 * bounds[2], rel=0.01)
    assert 0.0 < bounds[2] < 0.002 * (abs(value) or 1.0)


def test_the_sample_ratio_is_the_dirichlet_multinomial_bayes_factor():
    # One unit after the other: each probability under the prior's mean over the declared one.
    shares = {"a": 0.2, "b": 0.8}
    order = ["a", "b", "b", "a", "a", "a", "b"]
    factor, count = 1.0, {"a": 0, "b": 0}
    for total, name in enumerate(order):
        factor *= (SRM_PRIOR * shares[name] + count[name]) / (SRM_PRIOR + total) / shares[name]
        count[name] += 1
    assert sample_ratio(count, shares) == pytest.approx(factor)
    assert sample_ratio({"a": 0, "b": 0}, shares) == pytest.approx(1.0)


def test_a_planted_51_to_49_of_200_000_units_is_an_alarm_and_a_fair_split_is_none():
    assert sample_ratio({"control": 98_000, "new": 102_000}, HALVES) > 1 / SRM_ALARM
    assert sample_ratio({"control": 99_800, "new": 100_200}, HALVES) < 1.0
    assert sample_ratio({"control": 0, "new": 10**9}, HALVES) > 1e300
    assert bench.split_found(20).value == 1.0


def test_a_fair_split_that_is_watched_gives_no_alarm():
    # 0.1 % of 150 runs: two alarms or more happen once in 100.
    assert bench.split_alarms(150).value <= 1 / 150


def test_holm_goes_on_while_the_next_falls():
    assert holm([0.04, 0.01, 0.03, 0.005], 0.05) == [False, True, False, True]
    assert holm([0.01, 0.02, 0.03], 0.05) == [True, True, True]
    assert holm([], 0.05) == []


def test_e_benjamini_hochberg_takes_the_largest_set_that_its_evidence_carries():
    # k·e(k) ≥ 3/0.05 = 60: the second of 30, the third of 20.
    assert e_benjamini_hochberg([31.0, 5.0, 40.0], 0.05) == [True, False, True]
    assert e_benjamini_hochberg([20.0, 20.0, 20.0], 0.05) == [True, True, True]
    assert e_benjamini_hochberg([50.0, 1.0, 29.0], 0.05) == [False, False, False]
    assert e_benjamini_hochberg([], 0.05) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sums(np.ones(3), np.arange(2)), "units"),
        (lambda: sums(np.array([math.nan]), np.arange(1)), "finite"),
        (lambda: sample_ratio({"a": 1}, HALVES), "give the same"),
        (lambda: sample_ratio({"a": 1, "b": 0}, {"a": 1.0, "b": 0.0}), "give the same"),
    ],
)
def test_what_makes_no_contrast_is_refused(call, message):
    with pytest.raises(EstimateError, match=message):
        call()


@pytest.mark.soak
def test_watched_splits_keep_their_false_alarm_rate():
    assert bench.split_alarms(bench.SRM_RUNS).holds
    assert bench.split_found(bench.PLANTED_RUNS).holds
