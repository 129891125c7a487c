from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.errors import SpecError
from learners.schedule import EXPLORATION_PARAMS, Moments, explore, standardise

rewards = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


@given(rewards, rewards)
def test_moments_merged_are_those_of_both_together(first, second):
    def moments_of(values):
        found = Moments()
        for value in values:
            found = found.merge(Moments(1.0, value))
        return found

    merged = moments_of(first).merge(moments_of(second))
    whole = np.array(first + second)
    assert merged.count == len(whole)
    assert merged.mean == pytest.approx(whole.mean(), abs=1e-9)
    assert merged.squares == pytest.approx(np.square(whole - whole.mean()).sum(), abs=1e-6)


def test_added_at_once_or_one_by_one_the_moments_are_the_same(log_of):
    log = log_of(80, 3)
    _, one_by_one = standardise(Moments(), log)
    at_once = Moments().add(log)
    assert at_once.mean == pytest.approx(one_by_one.mean)
    assert at_once.scale == pytest.approx(one_by_one.scale)
    assert at_once.scale == pytest.approx(log.reward.std())


def test_moments_that_fade_are_those_of_rewards_of_less_weight(log_of):
    log, share = log_of(40, 3), 0.3
    later = log_of(20, 3, seed=1)
    weight = np.random.default_rng(0).random(20)
    found = Moments().add(log).faded(share).add(later, weight)
    expected = Moments().add(replace(log, weight=np.full(40, share)))
    expected = expected.add(replace(later, weight=weight))
    assert found.as_json() == pytest.approx(expected.as_json())


def test_a_first_reward_however_large_is_standardised_to_0_and_a_second_to_1(log_of):
    log = log_of(2, 1)
    found, _ = standardise(Moments(), replace(log, reward=np.array([900_000.0, 1.0])))
    assert found.tolist() == pytest.approx([0.0, -1.0])


def test_rewards_that_are_all_alike_have_the_scale_1(log_of):
    log = log_of(50, 1)
    alike = Moments().add(replace(log, reward=np.full(50, 0.1)))
    assert alike.scale == 1.0


def test_gamma_grows_with_the_root_of_what_was_seen_and_falls_with_the_scale():
    few, many = (explore(EXPLORATION_PARAMS, Moments(n, 0.0, 4.0 * n)) for n in (100.0, 400.0))
    assert many.gamma == pytest.approx(2 * few.gamma)
    assert few.gamma == pytest.approx(10.0 * 10.0 / 2.0)
    assert few.temperature == pytest.approx(0.1 * 2.0)


def test_the_floor_falls_with_what_was_seen_down_to_the_least():
    params = {**EXPLORATION_PARAMS, "floor": 0.4, "floor_exponent": 0.5, "floor_least": 0.03}
    floors = [explore(params, Moments(n, 0.0, n)).floor for n in (0.0, 1.0, 100.0, 1e6)]
    assert floors == pytest.approx([0.4, 0.4, 0.04, 0.03])
    # The least never raises what was asked for, and by default the floor stays.
    assert explore({**params, "floor": 0.01}, Moments(1e6, 0.0, 1e6)).floor == 0.01
    assert explore(EXPLORATION_PARAMS, Moments(1e6, 0.0, 1e6)).floor == 0.05


def test_an_exponent_outside_0_to_1_is_refused():
    with pytest.raises(SpecError, match=r"floor_exponent is -1\.0"):
        explore({**EXPLORATION_PARAMS, "floor_exponent": -1.0}, Moments())
    with pytest.raises(SpecError, match=r"gamma_exponent is 1\.5"):
        explore({**EXPLORATION_PARAMS, "gamma_exponent": 1.5}, Moments())
