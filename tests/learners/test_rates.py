"""Rates and quantiles from counts, at every look."""

import math

import numpy as np
import pytest

from learners.errors import EstimateError
from learners.rates import quantile_bounds, rate_bounds, worth


def test_a_dozen_failures_say_something() -> None:
    low, high = rate_bounds(9, 30, 0.99)
    assert 0.07 < low < 0.3 < high < 0.65
    assert rate_bounds(0, 0) == (0.0, 1.0)
    assert rate_bounds(0, 100)[0] == 0.0
    assert rate_bounds(100, 100)[1] == 1.0


def test_more_rows_make_the_bounds_tighter_and_a_higher_level_wider() -> None:
    narrow, wide = rate_bounds(300, 1_000), rate_bounds(30, 100)
    assert wide[0] < narrow[0] < 0.3 < narrow[1] < wide[1]
    sure = rate_bounds(30, 100, 0.999)
    assert sure[0] < wide[0]
    assert wide[1] < sure[1]


@pytest.mark.parametrize(("hits", "rows"), [(-1, 5), (6, 5), (1, math.inf)])
def test_counts_that_are_none_are_refused(hits: float, rows: float) -> None:
    with pytest.raises(EstimateError, match="give 0 to rows"):
        rate_bounds(hits, rows)


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_the_bounds_hold_at_every_look_together(rate: float) -> None:
    """Nominal 90 %, 200 streams, 40 looks each: more than 34 misses come by luck in 1 of 1,000."""
    rng = np.random.default_rng(3)
    missed = 0
    looks = np.unique(np.geomspace(5, 3_000, 40).astype(int))
    for _ in range(200):
        hits = (rng.random(3_000) < rate).cumsum()
        for n in looks.tolist():
            low, high = rate_bounds(float(hits[n - 1]), n, 0.9)
            if not low <= rate <= high:
                missed += 1
                break
    assert missed <= 34


def test_rows_of_one_unit_that_resemble_each_other_are_worth_less() -> None:
    units = np.repeat(np.arange(100), 5)
    alike = np.repeat(np.random.default_rng(0).random(100) < 0.3, 5)
    assert worth(alike, units) == pytest.approx(0.2, rel=0.02)
    assert worth(alike, np.arange(500)) == pytest.approx(1.0)
    assert worth(np.zeros(500, dtype=np.bool_), units) == 1.0


def test_failures_of_a_single_unit_count_as_one() -> None:
    nearly = np.array([True] * 9 + [False])
    assert worth(nearly, np.zeros(10, dtype=np.int64)) == pytest.approx(0.1)
    assert worth(np.ones(10, dtype=np.bool_), np.repeat([0, 1], 5)) == pytest.approx(0.2)
    one_bad = np.array([True] * 10 + [False] * 10)
    of_eleven = np.array([0] * 10 + list(range(1, 11)))
    assert worth(one_bad, of_eleven) < 0.2


def test_a_quantile_lies_within_its_bounds_and_few_rows_bound_it_on_no_side() -> None:
    values = np.random.default_rng(1).exponential(size=3_000)
    low, high = quantile_bounds(values, 0.95, 0.99)
    assert low < -math.log(0.05) < high
    assert high - low < 1.2
    assert quantile_bounds(values[:20], 0.95)[1] == math.inf
    assert quantile_bounds(values[:0], 0.95) == (-math.inf, math.inf)
    with pytest.raises(EstimateError, match="outside"):
        quantile_bounds(values, 1.0)


def test_values_of_one_unit_that_resemble_each_other_bound_a_quantile_as_one_does() -> None:
    values = np.random.default_rng(1).exponential(size=1_000)
    units = np.repeat(np.arange(1_000), 20)
    alone, alike = (
        quantile_bounds(values, 0.95, 0.99),
        quantile_bounds(np.repeat(values, 20), 0.95, 0.99, units=units),
    )
    assert alike == pytest.approx(alone, rel=0.05)
    low, high = quantile_bounds(np.repeat(values, 20), 0.95, 0.99)
    assert high - low < 0.5 * (alone[1] - alone[0])
