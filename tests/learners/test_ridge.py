import numpy as np
import pytest

from learners.contract import Spec
from learners.errors import SpecError
from learners.ridge import PENALTIES, Decomposition, Pooled, Statistics, merge

ARMS, D = 3, 5


def rows_of(n: int, seed: int = 0, targets: int = 1):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, D))
    x[:, 0] = 1.0
    told = (x @ random.normal(size=(D, targets))) + random.normal(size=(n, targets))
    return x, random.integers(ARMS, size=n), random.random(n), told


def statistics_of(n: int, seed: int = 0, targets: int = 1) -> Statistics:
    return Statistics.empty(ARMS, D, targets).add(*rows_of(n, seed, targets))


def same(first: Statistics, second: Statistics) -> bool:
    pairs = zip(first.tensors().values(), second.tensors().values(), strict=True)
    return all(one.tobytes() == other.tobytes() for one, other in pairs)


def test_statistics_are_the_weighted_sums_of_each_arm():
    x, action, weight, told = rows_of(50, targets=2)
    found = Statistics.empty(ARMS, D, 2).add(x, action, weight, told)
    for arm in range(ARMS):
        own = action == arm
        weighted = x[own] * weight[own, None]
        assert np.allclose(found.gram[arm], weighted.T @ x[own])
        assert np.allclose(found.moment[arm], weighted.T @ told[own])
        assert np.allclose(found.energy[arm], weight[own] @ told[own] ** 2)
        assert found.count[arm] == pytest.approx(weight[own].sum())
    assert np.array_equal(found.gram, found.gram.swapaxes(1, 2))


def test_targets_beside_each_other_are_fitted_as_if_alone():
    x, action, weight, told = rows_of(60, targets=2)
    both = Statistics.empty(ARMS, D, 2).add(x, action, weight, told)
    for target in (0, 1):
        alone = Statistics.empty(ARMS, D).add(x, action, weight, told[:, [target]])
        pooled = Pooled(0.0, 1.0, 0.1)
        first = pooled.fit(both, 0.3, 1.0, target=target)
        second = pooled.fit(alone, 0.3, 1.0)
        assert np.allclose(first.weights, second.weights)
        assert first.evidence == pytest.approx(second.evidence)


def test_any_order_of_the_workers_merges_to_the_same_bytes():
    base = statistics_of(30, seed=9)
    workers = [base.add(*rows_of(40, seed)) for seed in range(5)]
    found = merge(base, workers)
    random = np.random.default_rng(1)
    for _ in range(10):
        assert same(merge(base, [workers[i] for i in random.permutation(5)]), found)


def test_merged_statistics_are_those_of_all_rows():
    base = statistics_of(30, seed=9)
    expected = base
    for seed in range(4):
        expected = expected.add(*rows_of(40, seed))
    found = merge(base, [base.add(*rows_of(40, seed)) for seed in range(4)])
    for name, values in expected.tensors().items():
        assert np.allclose(found.tensors()[name], values, rtol=0, atol=1e-10)


@pytest.mark.parametrize("fixed", [1, 2, D])
def test_a_decomposition_inverts_at_every_ridge(fixed):
    gram = statistics_of(20).gram
    for ridge in (0.5, 40.0):
        penalty = np.r_[np.full(fixed, 2.0), np.full(D - fixed, ridge)]
        regular = gram + np.diag(penalty)
        whole = Decomposition.of(gram, np.full(fixed, 2.0))
        factor = whole.factor(ridge)
        assert np.array_equal(whole.penalty(ridge), penalty)
        assert np.allclose(factor.inverse(), np.linalg.inv(regular), atol=1e-12)
        assert np.allclose(factor.total(), np.linalg.inv(regular).sum(axis=0), atol=1e-12)
        assert factor.determinant == pytest.approx(np.linalg.slogdet(regular)[1].sum())
        right = np.random.default_rng(0).normal(size=(ARMS, D))
        solved = np.linalg.solve(regular, right[..., None])[..., 0]
        assert np.allclose(factor.solve(right), solved, atol=1e-12)


def test_one_column_is_decomposed_too():
    factor = Decomposition.of(np.full((2, 1, 1), 3.0), np.array([1.0])).factor(10.0)
    assert np.allclose(factor.inverse(), 0.25)


@pytest.mark.parametrize("pooling", [0.0, 0.1, 3.0])
def test_evidence_is_the_marginal_likelihood_of_the_rows(pooling):
    x, action, weight, told = rows_of(40)
    mean, constant = 0.4, 1.5
    found, expected = [], []
    for ridge in PENALTIES:
        statistics = Statistics.empty(ARMS, D).add(x, action, weight, told)
        fit = Pooled(ridge, constant, pooling).fit(statistics, mean, 1.0)
        found.append((fit.evidence, fit.noise))
        # The rewards' covariance with all weights integrated out, in units of the noise.
        prior = 1.0 / np.r_[constant, np.full(D - 1, ridge)]
        shared = 0.0 if pooling == 0.0 else 1.0 / pooling
        alike = (action[:, None] == action) + shared
        covariance = np.diag(1.0 / weight) + alike * ((x * prior) @ x.T)
        apart = told[:, 0] - mean
        n = weight.sum()
        noise = apart @ np.linalg.solve(covariance, apart) / n
        determinant = np.linalg.slogdet(covariance)[1]
        expected.append((-(n * np.log(noise) + determinant) / 2, noise))
    measured, direct = np.array(found), np.array(expected)
    assert np.allclose(measured[:, 1], direct[:, 1])
    # A constant that no penalty changes is left out.
    assert np.allclose(np.diff(measured[:, 0]), np.diff(direct[:, 0]))


def test_arms_keep_their_statistics_when_others_join_or_leave(schema):
    statistics = statistics_of(30)
    old = Spec(schema, ("a", "b", "c"))
    found = statistics.rearmed(old, Spec(schema, ("c", "new", "a")))
    assert np.array_equal(found.gram[[0, 2]], statistics.gram[[2, 0]])
    assert not found.gram[1].any()
    assert found.count[1] == 0.0


def test_statistics_that_no_bundle_holds_are_refused():
    with pytest.raises(SpecError, match="fewer columns"):
        Statistics.empty(7, 1000)
