"""What a surge's figures are made of."""

import math

import numpy as np
import pytest

from bench.evidence_surges import hurt_until, information, of_break, of_wrong


def test_the_fewest_is_what_the_nearest_allowed_pair_of_rates_leaves() -> None:
    known = information((0.3, 0.01), 1e6)
    plain = 0.3 * math.log(0.3 / 0.03) + 0.7 * math.log(0.7 / 0.97)
    assert known == pytest.approx(plain, rel=0.01)
    assert information((0.3, 0.01), 1.0) < 0.5 * known
    assert information((0.03, 0.01), 10.0) == pytest.approx(0.0, abs=1e-4)


def test_a_break_hurts_some_and_none_counts_from_before() -> None:
    hurt = hurt_until(np.random.default_rng(0), 16.0, (0.3, 0.01), 0.01, 20)
    assert 3 <= hurt <= 20
    measure = of_break(0.05, 9, 0.0, 20, 3)
    assert measure.ratio is not None
    assert 0.5 < measure.ratio < 4


def test_wrong_alarms_are_a_share_of_the_runs() -> None:
    measure = of_wrong(3.0, 0.0, 20)
    assert 0 <= measure.value <= 0.2
    assert measure.holds is (measure.value * 20 <= 1 + 2.33 * math.sqrt(0.95))
