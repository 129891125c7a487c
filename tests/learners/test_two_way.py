import numpy as np
import pytest

from learners.two_way import between_variance, fit

ARMS, GROUPS = 8, 30


def table(seed, between, noise=0.25):
    """Means of unequal numbers of rows, with effects of arms and of hard and easy groups."""
    random = np.random.default_rng(seed)
    count = random.integers(1, 40, size=(ARMS, GROUPS)).astype(float)
    effects = random.normal(size=(ARMS, 1)) / 5 + random.normal(size=(1, GROUPS))
    own = random.normal(size=count.shape) * np.sqrt(between)
    return effects + own + random.normal(size=count.shape) * np.sqrt(noise / count), count


def _estimate(seed, between):
    mean, count = table(seed, between)
    return between_variance(mean, count, 0.25)


@pytest.mark.parametrize("between", [0.0, 0.01, 0.1])
def test_the_variance_between_groups_is_estimated_without_bias(between):
    # The untruncated estimate has no bias; 200 worlds leave a standard error near 1/40 of the
    # spread of one, so 4 of them are a false alarm of 1 in 10,000. At 0 half of the estimates are
    # cut off at 0, so the mean stands above it by less than half of the spread of one.
    found = np.array([_estimate(seed, between) for seed in range(200)])
    error = found.mean() - between
    if between:
        assert abs(error) < 4 * found.std() / np.sqrt(200)
    else:
        assert (found == 0).mean() > 0.3
        assert error < 0.002


def test_a_balanced_table_gives_the_classic_analysis_of_variance():
    mean, _ = table(0, 0.1)
    count = np.full(mean.shape, 7.0)
    rows, columns = mean.mean(axis=1, keepdims=True), mean.mean(axis=0, keepdims=True)
    left = mean - rows - columns + mean.mean()
    square = (left**2).sum() / ((ARMS - 1) * (GROUPS - 1))
    assert between_variance(mean, count, 0.25) == pytest.approx(square - 0.25 / 7, rel=1e-5)


def test_the_effects_are_the_penalised_least_squares_of_the_indicators():
    mean, count = table(1, 0.05)
    count[2, 5] = count[3] = 0.0
    found = fit(mean, count, noise=0.25, prior=3.0)
    weight = np.where(count > 0, 1 / (found.between + 0.25 / np.maximum(count, 1e-9)), 0.0)
    arm, group = np.indices(mean.shape).reshape(2, -1)
    wide = np.hstack([np.eye(ARMS)[arm], np.eye(GROUPS)[group]])
    root = np.sqrt(weight.reshape(-1, 1))
    stacked = np.vstack([root * wide, np.sqrt(3.0 / 0.25) * np.eye(ARMS + GROUPS)])
    right = np.concatenate([root[:, 0] * mean.reshape(-1), np.zeros(ARMS + GROUPS)])
    solved, *_ = np.linalg.lstsq(stacked, right)
    assert np.allclose(found.effects, (wide @ solved).reshape(mean.shape), rtol=0, atol=1e-8)


def test_hard_and_easy_groups_are_no_reason_to_choose_otherwise_there():
    # Groups differ by 1.0, arms within a group by noise only.
    found = [_estimate(seed, 0.0) for seed in range(20)]
    assert max(found) < 0.02


def test_one_group_or_no_data_has_no_variance_between_groups():
    assert between_variance(np.ones((4, 1)), np.ones((4, 1)), 1.0) == 0.0
    assert between_variance(np.zeros((4, 3)), np.zeros((4, 3)), 1.0) == 0.0
    assert not fit(np.zeros((4, 3)), np.zeros((4, 3)), 1.0, 4.0).effects.any()
