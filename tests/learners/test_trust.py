from dataclasses import replace

import numpy as np
import pytest

from learners import trust
from learners.grades import Grades

WORTH = np.array([0.3, 0.5, 0.4, 0.0])
"""What each arm's answers are truly worth; the judge takes the last for excellent."""
JUDGED = np.array([0.3, 0.5, 0.4, 0.8])
LIMITS = (0.0, 1.0)


def graded(n: int, rate: float, *, seed: int = 0, judged: np.ndarray = JUDGED) -> Grades:
    """A judge's grades of each arm alike, and at the rate a trusted one beside."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(len(WORTH), size=n)
    trusted = np.where(rng.random(n) < rate, rng.random(n) < WORTH[arm], np.nan)
    own = (rng.random(n) < judged[arm]).astype(np.float64)
    source = np.zeros(n, dtype=np.int64)
    return Grades((len(WORTH), 1), arm, source, own, np.ones(n), trusted)


def means(grades: Grades) -> np.ndarray:
    weight = np.bincount(grades.arm, grades.weight, len(WORTH))
    return np.bincount(grades.arm, grades.weight * grades.reward, len(WORTH)) / weight


def test_a_gamed_arm_falls_to_its_worth_and_the_others_stay():
    found = means(trust.corrected(graded(20_000, 0.05), LIMITS))
    # 250 trusted grades an arm: 4 standard errors of their mean, 1 false alarm in 4,000.
    assert found == pytest.approx(WORTH, abs=0.13)
    assert found.argmax() == 1


def test_the_mean_of_an_arm_is_that_of_prediction_powered_inference():
    grades = graded(40_000, 0.2, seed=3)
    found = trust.fit(grades)
    for arm in range(len(WORTH)):
        pairs = (grades.arm == arm) & grades.paired
        gap = (grades.trusted - grades.reward)[pairs].mean()
        # 2,000 pairs an arm: the shrinkage is all but gone.
        assert found.bias[arm, 0] == pytest.approx(gap, abs=0.005)
        assert found.centre[arm, 0] == pytest.approx(grades.reward[grades.arm == arm].mean())


def test_a_few_pairs_are_shrunk_to_the_judges_common_bias():
    grades = graded(20_000, 0.05, seed=1, judged=WORTH + 0.2)
    few = replace(grades, trusted=np.where(grades.arm == 0, np.nan, grades.trusted))
    one = int(np.flatnonzero((grades.arm == 0) & grades.paired)[0])
    few.trusted[one] = grades.reward[one]  # by chance they agree here
    found = trust.fit(few).bias[:, 0]
    assert found[0] == pytest.approx(found[1:].mean(), abs=0.1)
    assert trust.fit(few).variance[0, 0] > 3 * trust.fit(few).variance[1, 0]


def test_a_judge_that_is_caught_on_one_arm_weighs_less_there_and_where_nobody_checked():
    grades = graded(4_000, 0.05, seed=2)
    unchecked = replace(grades, trusted=np.where(grades.arm == 2, np.nan, grades.trusted))
    found = trust.corrected(unchecked, LIMITS)
    alone = np.isnan(unchecked.trusted)
    weight = [found.weight[alone & (grades.arm == arm)].mean() for arm in range(4)]
    assert weight[2] < 0.2 * weight[1]
    assert max(weight) < 1.0


def test_an_honest_judge_keeps_its_grades_and_its_order_within_an_arm():
    rng = np.random.default_rng(5)
    arm = rng.integers(4, size=8_000)
    own = rng.random(8_000)
    trusted = np.where(rng.random(8_000) < 0.05, own, np.nan)
    source = np.zeros(8_000, dtype=np.int64)
    grades = Grades((4, 1), arm, source, own, np.ones(8_000), trusted)
    found = trust.corrected(grades, LIMITS)
    assert found.reward == pytest.approx(own, abs=0.02)


def test_grades_that_do_not_follow_the_trusted_ones_are_drawn_to_their_mean():
    grades = graded(20_000, 0.05)
    found = trust.apply(trust.fit(grades), grades, LIMITS)
    noise = found.reward[(grades.arm == 1) & np.isnan(grades.trusted)]
    assert noise.std() < 0.2 * grades.reward[grades.arm == 1].std()


def test_a_trusted_grade_stands_in_place_of_the_judges_and_is_nobodys():
    grades = graded(1_000, 0.1)
    found = trust.corrected(grades, LIMITS)
    told = np.isfinite(grades.trusted)
    assert (found.reward[told] == grades.trusted[told]).all()
    assert (found.source[told] == -1).all()
    assert (found.source[~told] == 0).all()
    assert (found.weight[told] == 1.0).all()
    assert ((found.reward >= 0) & (found.reward <= 1)).all()


def test_a_source_that_was_never_compared_stays_as_it_is():
    grades = graded(500, 0.1)
    second = np.arange(500) % 2
    trusted = np.where(second == 1, np.nan, grades.trusted)
    both = replace(grades, shape=(4, 2), source=second, trusted=trusted)
    found = trust.corrected(both, LIMITS)
    assert (found.reward[second == 1] == both.reward[second == 1]).all()
    assert (found.weight[second == 1] == 1.0).all()
    alone = replace(grades, trusted=np.full(500, np.nan))
    assert (trust.corrected(alone, LIMITS).reward == alone.reward).all()


def test_the_same_grades_give_the_same_bytes():
    first, second = (trust.corrected(graded(500, 0.1), LIMITS) for _ in range(2))
    assert first.reward.tobytes() == second.reward.tobytes()
    assert first.weight.tobytes() == second.weight.tobytes()


def test_rectified_rewards_are_right_on_average_whatever_the_correction():
    """Over 400 logs; the means' means within 4 standard errors: 1 false alarm in 4,000 checks."""
    wrong = trust.fit(graded(400, 0.05, seed=77, judged=1 - WORTH))
    found = np.empty((400, 4))
    for seed in range(400):
        grades = graded(2_000, 0.1, seed=1_000 + seed)
        rewards = trust.rectified(wrong, grades, LIMITS)
        found[seed] = [rewards[grades.arm == arm].mean() for arm in range(4)]
    error = found.std(axis=0) / 20
    assert (np.abs(found.mean(axis=0) - WORTH) < 4 * error + 0.005).all()


def test_rectified_rewards_tell_how_unsure_their_mean_is():
    """The interval of the plain mean, 95 % nominal, holds in 300 logs: below .90 is 1 in 10⁴."""
    correction = trust.fit(graded(4_000, 0.05, seed=5))
    held = []
    for seed in range(300):
        grades = graded(4_000, 0.05, seed=3_000 + seed)
        rewards = trust.rectified(correction, grades, LIMITS)[grades.arm == 1]
        error = rewards.std(ddof=1) / np.sqrt(len(rewards))
        held.append(abs(rewards.mean() - WORTH[1]) <= 1.96 * error)
    assert np.mean(held) > 0.9


def test_without_a_trusted_grade_the_guess_stands():
    correction = trust.fit(graded(4_000, 0.05))
    alone = graded(500, 0.0, seed=9)
    assert (trust.rectified(correction, alone, LIMITS) == correction.predict(alone, LIMITS)).all()


def test_an_arm_that_was_never_graded_before_is_moved_by_the_common_bias_alone():
    seen = graded(4_000, 0.1, judged=WORTH + 0.1)
    correction = trust.fit(seen.only(seen.arm < 3))
    new = seen.only(seen.arm == 3)
    gaps = correction.predict(new, (-1.0, 2.0)) - new.reward
    assert gaps == pytest.approx(np.full(len(new), -0.1), abs=0.1)


def test_what_only_a_trusted_source_spoke_of_stands_as_it_is():
    grades = graded(500, 0.1)
    alone = np.arange(500) < 5
    source = np.where(alone, -1, grades.source)
    trusted = np.where(alone, 0.25, grades.trusted)
    mixed = replace(grades, source=source, trusted=trusted)
    found = trust.rectified(trust.fit(mixed), mixed, LIMITS)
    assert (found[:5] == 0.25).all()
    assert (trust.corrected(mixed, LIMITS).reward[:5] == 0.25).all()


def test_no_grades_are_no_trouble():
    empty = graded(0, 0.1)
    assert len(trust.corrected(empty)) == 0
