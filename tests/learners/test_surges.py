"""A rate that surges beyond another's: found in a few failures, hardly ever where there is none."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.rates import worth
from learners.surges import Allowed, Surge, Trail, above, beside

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MARGIN = Allowed(0.02)
RATIO = 16.0
ALPHA = 0.05


def mixed(seed: int, rows: int, ratio: float = RATIO) -> tuple[np.random.Generator, Floats, Bools]:
    """When requests come, in parts of all, and which of them are the own ones."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.random(int(rows * (1.0 + ratio))))
    return rng, at, rng.random(len(at)) < 1.0 / (1.0 + ratio)


def seen(at: Floats, own: Bools, hit: Bools, **more: float) -> Surge:
    return beside(
        Trail(hit[own], at[own]), Trail(hit[~own], at[~own]), MARGIN, ratio=more.get("ratio", RATIO)
    )


def alarms(found: Surge) -> bool:
    return found.log_e >= -math.log(ALPHA)


def test_a_surge_is_found_within_a_dozen_failures_however_long_all_was_well() -> None:
    for quiet in (20, 2_000):
        failures = []
        for seed in range(20):
            rng, at, own = mixed(seed, quiet + 200)
            begins = at[np.flatnonzero(own)[quiet]]
            rate = np.where(own & (at >= begins), 0.3, 0.005)
            hit = rng.random(len(at)) < rate
            for upto in np.flatnonzero(own & (at >= begins))[::3]:
                if alarms(seen(at[:upto], own[:upto], hit[:upto])):
                    failures.append(int((hit[:upto] & own[:upto] & (at[:upto] >= begins)).sum()))
                    break
        assert len(failures) == 20
        assert np.median(failures) <= 12, quiet


def test_where_and_how_much_it_surged_is_told() -> None:
    rng, at, own = mixed(1, 1_000)
    hit = rng.random(len(at)) < np.where(own & (at > 0.9), 0.4, 0.01)
    found = seen(at, own, hit)
    assert 60 <= found.rows <= 140
    assert found.rate == pytest.approx(0.4, abs=0.12)
    assert found.other_rate == pytest.approx(0.01, abs=0.01)
    assert found.other_rows > 10 * found.rows


@pytest.mark.parametrize("ratio", [1.0, 3.0, 16.0])
@pytest.mark.parametrize("base", [0.0, 0.05])
def test_failures_that_are_just_allowed_hardly_ever_alarm_at_any_look(
    base: float, ratio: float
) -> None:
    """Nominal 5 % of 200 streams: more than 18 alarms come by luck in 1 of 100 at most."""
    found = 0
    for seed in range(200):
        rng, at, own = mixed(seed, 600, ratio)
        hit = rng.random(len(at)) < np.where(own, base + 0.02, base)
        found += alarms(seen(at, own, hit, ratio=ratio))
    assert found <= 18


def test_an_outage_of_both_sides_is_no_surge_of_one() -> None:
    """Nominal 5 % of 200 streams: more than 18 alarms come by luck in 1 of 100 at most."""
    found = 0
    for seed in range(200):
        rng, at, own = mixed(seed, 600)
        out = np.where((at > 0.5) & (at < 0.55), 0.9, 0.01)
        found += alarms(seen(at, own, rng.random(len(at)) < out))
    assert found <= 18


def test_sessions_that_fail_as_a_whole_count_as_one_failure_each() -> None:
    """Nominal 5 % of 100 streams: more than 11 alarms come by luck in 1 of 100 at most."""
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sides = []
        for sessions in (150, 2_400):
            unit = np.repeat(np.arange(sessions), rng.geometric(0.2, sessions))
            at = rng.random(sessions)[unit] + 0.05 * rng.random(len(unit))
            hit = (rng.random(sessions) < 0.04)[unit]
            order = np.argsort(at)
            sides.append(Trail(hit[order], at[order], worth(hit, unit)))
        found += alarms(beside(sides[0], sides[1], MARGIN, ratio=RATIO))
    assert found <= 11


def test_against_a_rate_of_before_the_own_failures_alone_speak() -> None:
    rng = np.random.default_rng(0)
    quiet = rng.random(500) < 0.02
    assert not alarms(above(Trail(quiet, np.arange(500.0)), 0.02, MARGIN))
    breaks = np.concatenate([quiet, rng.random(40) < 0.3])
    found = above(Trail(breaks, np.arange(540.0)), 0.02, MARGIN)
    assert alarms(found)
    assert found.rows <= 60


def test_what_allows_everything_and_what_has_no_rows_never_alarms() -> None:
    hits, none = (
        Trail(np.ones(50, dtype=np.bool_), np.arange(50.0)),
        Trail(np.zeros(0, bool), np.zeros(0)),
    )
    assert beside(hits, none, MARGIN, ratio=1.0).log_e == 0.0
    assert beside(none, hits, MARGIN, ratio=1.0).log_e == 0.0
    assert beside(hits, hits, Allowed(1.5), ratio=1.0).log_e == 0.0
    assert above(hits, 0.99, MARGIN).log_e == 0.0
    every = beside(hits, hits, Allowed(0.0, 2.0), ratio=1.0)
    assert every.log_e == 0.0


def test_shapes_and_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(EstimateError, match="give the same"):
        Trail(np.zeros(3, dtype=np.bool_), np.zeros(2))
    with pytest.raises(EstimateError, match="worth"):
        Trail(np.zeros(2, dtype=np.bool_), np.zeros(2), 0.0)
    with pytest.raises(EstimateError, match="margin -1"):
        Allowed(-1.0)
