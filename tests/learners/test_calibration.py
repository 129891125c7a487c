from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.calibration import (
    Curve,
    calibration_error,
    isotonic,
    platt,
    pools,
    wilson_low,
)
from learners.errors import CalibrationError

Z = NormalDist().inv_cdf(0.95)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overconfident scores, whether each was a success, and its true chance."""
    random = np.random.default_rng(seed)
    raw = random.random(n)
    chance = sigmoid(2.0 * (raw - 0.4))
    return raw, (random.random(n) < chance).astype(float), chance


numbers = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.125, 8)), min_size=1, max_size=12)


@given(rows=numbers)
def test_pooled_means_are_the_isotonic_regression(rows):
    values, weight = (np.array(each) for each in zip(*rows, strict=True))
    n = len(values)

    def mean(first: int, last: int) -> float:
        part = slice(first, last + 1)
        return float(weight[part] @ values[part] / weight[part].sum())

    # Robertson, Wright & Dykstra 1988, theorem 1.4.4: the max–min formula.
    wanted = [max(min(mean(s, t) for t in range(i, n)) for s in range(i + 1)) for i in range(n)]
    block = pools(values, weight)
    found = [
        float(weight[block == b] @ values[block == b] / weight[block == b].sum()) for b in block
    ]
    assert np.allclose(found, wanted, atol=1e-9)


def test_an_isotonic_block_is_worth_its_mean_and_wilsons_bound():
    raw = np.repeat([0.2, 0.5, 0.9], [40, 50, 60])
    outcome = np.concatenate([np.arange(40) < 10, np.arange(50) < 5, np.arange(60) < 45])
    curve = isotonic(raw, outcome.astype(float))
    # 10 of 40 and then 5 of 50 fall: they are one block of 15 of 90.
    assert curve.values(np.array([0.2, 0.5, 0.9, 7.0])) == pytest.approx([1 / 6, 1 / 6, 0.75, 0.75])
    p, n = 0.75, 60
    wilson = (p + Z**2 / 2 / n - Z * np.sqrt(p * (1 - p) / n + Z**2 / 4 / n**2)) / (1 + Z**2 / n)
    assert curve.lows(np.array([0.9]))[0] == pytest.approx(wilson)
    # Half way from one block's end to the next one's beginning.
    assert curve.values(np.array([0.7]))[0] == pytest.approx((1 / 6 + 0.75) / 2)


def test_wilsons_bound_is_where_the_truth_would_be_z_deviations_below():
    mean, count = np.array([0.3, 0.9, 1.0]), np.array([25.0, 200.0, 10.0])
    low = wilson_low(mean, count, Z)
    assert (mean - low) / np.sqrt(low * (1 - low) / count) == pytest.approx([Z] * 3)


def test_platt_of_two_scores_gives_each_groups_mean():
    raw = np.repeat([-1.0, 3.0], [4_000, 4_000])
    outcome = np.concatenate([np.arange(4_000) < 1_000, np.arange(4_000) < 3_200]).astype(float)
    curve = platt(raw, outcome)
    assert curve.values(np.array([-1.0, 3.0])) == pytest.approx([0.25, 0.8], abs=1e-3)
    # A logistic regression of two groups is two shares: the bound is that of each share's logit.
    error = np.sqrt(1 / (4_000 * 0.25 * 0.75))
    wanted = sigmoid(np.log(0.25 / 0.75) - Z * error)
    assert curve.lows(np.array([-1.0]))[0] == pytest.approx(wanted, abs=1e-3)


def test_platt_finds_the_sigmoid_that_made_the_outcomes():
    raw, outcome, _ = world(40_000, 0)
    at = np.linspace(0, 1, 21)
    # Standard error at most about 0.005 at the ends; 0.02 is 4 of them.
    assert np.abs(platt(raw, outcome).values(at) - sigmoid(2.0 * (at - 0.4))).max() < 0.02


@pytest.mark.parametrize("method", [isotonic, platt])
def test_calibration_mends_what_is_overconfident_on_newer_rows(method):
    raw, outcome, _ = world(2_000, 1)
    curve = method(raw, outcome)
    newer, earned, _ = world(20_000, 2)
    before = calibration_error(newer, earned)
    after = calibration_error(curve.values(newer), earned)
    print(method.__name__, before, after)
    assert before > 0.1
    assert after < 0.04


@pytest.mark.parametrize("method", [isotonic, platt])
def test_the_bound_is_below_the_truth_as_often_as_it_says(method):
    """Of 150 worlds of 400 rows the mean share of scores whose bound is too high is at most 5 %.

    A block's truth is its mean chance. Observed 2 to 4 %: a change that passes 7 % is no chance
    (standard error below 1 %).
    """
    too_high = []
    for seed in range(150):
        raw, outcome, chance = world(400, seed)
        curve = method(raw, outcome)
        values = curve.values(raw)
        truth = np.array([chance[values == value].mean() for value in values])
        too_high.append((curve.lows(raw) > truth).mean())
    print(method.__name__, np.mean(too_high))
    assert np.mean(too_high) < 0.07


def test_scores_that_tell_nothing_are_all_worth_the_mean():
    random = np.random.default_rng(3)
    outcome = (random.random(500) < 0.3).astype(float)
    raw = -outcome + random.normal(size=500)  # a higher score is worse
    for curve in (isotonic(raw, outcome), platt(raw, outcome)):
        assert np.ptp(curve.values(raw)) < 0.01
        assert curve.values(raw).mean() == pytest.approx(outcome.mean(), abs=0.01)


def test_scores_that_are_trusted_keep_their_slope_until_many_rows_speak_against_it():
    few, many = world(20, 4), world(20_000, 4)
    at = np.array([0.3, 0.7])
    slopes = [
        np.diff(platt(raw, won, trust=20.0).values(at))[0] / 0.4 for raw, won, _ in (few, many)
    ]
    wanted = np.diff(sigmoid(2.0 * (at - 0.4)))[0] / 0.4
    print(slopes, wanted)
    assert slopes[0] > 0.7
    assert slopes[1] == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("method", [isotonic, platt])
def test_another_unit_of_score_and_outcome_gives_the_same_curve(method):
    raw, outcome, _ = world(500, 5)
    plain = method(raw, outcome)
    other = method(raw * 1e3 - 7, 100 * outcome - 50, span=(-50.0, 50.0))
    at = np.linspace(0, 1, 50)
    assert np.allclose(other.values(at * 1e3 - 7), 100 * plain.values(at) - 50, atol=1e-4)
    assert np.allclose(other.lows(at * 1e3 - 7), 100 * plain.lows(at) - 50, atol=1e-4)


@pytest.mark.parametrize("method", [isotonic, platt])
def test_weights_count_by_their_ratios_and_rows_without_one_do_not(method):
    raw, outcome, _ = world(300, 6)
    weight = np.where(np.arange(300) < 150, 3.0, 0.0)
    weighed = method(raw, outcome, weight)
    alone = method(raw[:150], outcome[:150])
    assert np.allclose(weighed.values(raw), alone.values(raw), atol=1e-6)
    assert np.allclose(weighed.lows(raw), alone.lows(raw), atol=1e-6)


def test_perfectly_parted_outcomes_have_a_finite_curve():
    raw = np.linspace(0, 1, 60)
    outcome = (raw > 0.5).astype(float)
    for curve in (isotonic(raw, outcome), platt(raw, outcome)):
        assert curve.values(np.array([0.0]))[0] < 0.1
        assert curve.values(np.array([1.0]))[0] > 0.9
        assert (curve.lows(raw) < curve.values(raw) + 1e-12).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": np.array([0.0, 2.0])}, r"row 1: outcome=2.0"),
        ({"raw": np.array([np.nan, 0.0])}, r"row 0: raw=nan"),
        ({"weight": np.array([-1.0, 0.0])}, r"row 0: weight=-1.0"),
        ({"weight": np.zeros(2)}, "no rows"),
        ({"raw": np.zeros(3)}, r"give \(n,\) each"),
        ({"span": (1.0, 1.0)}, "span"),
        ({"level": 1.0}, "level is 1.0"),
    ],
)
@pytest.mark.parametrize("method", [isotonic, platt])
def test_what_cannot_be_calibrated_is_refused(method, change, message):
    given_ = {"raw": np.zeros(2), "outcome": np.array([0.0, 1.0]), "weight": np.ones(2), **change}
    with pytest.raises(CalibrationError, match=message):
        method(**given_)


def test_what_is_no_curve_is_refused():
    one = np.array([0.0, 1.0])
    for raw, value, low in (
        (one[::-1], one, one),
        (one, one[::-1], one),
        (one, one, one[:1]),
        (one, np.array([0.0, np.inf]), one),
    ):
        with pytest.raises(CalibrationError):
            Curve(raw, value, low)
