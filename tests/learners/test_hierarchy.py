import numpy as np
import pytest

from learners import hierarchy
from learners.hierarchy import Sums, _centred, _solve, _Variances, fit

K, D = 3, 4
GROUPS = np.array([0, 1, 2, 2])
VARIANCES = _Variances(
    own=np.array([1.0, 0.2, 0.05]),
    shared=np.array([2.0, 0.4, 0.1]),
    noise=0.7,
    request=0.3,
)


class World:
    """A few probes and single rows, and their sums."""

    def __init__(self, probes: int, served: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.probe_x = np.column_stack([np.ones(probes), random.normal(size=(probes, D - 1)) + 1])
        self.probe_r = random.normal(size=(probes, K)) + random.normal(size=(probes, 1))
        self.x = np.column_stack([np.ones(served), random.normal(size=(served, D - 1)) + 1])
        self.arm = random.integers(K, size=served)
        self.r = 3 * random.normal(size=served) + self.arm

    @property
    def sums(self) -> Sums:
        ones = np.eye(K)[self.arm]
        return Sums(
            probe_gram=self.probe_x.T @ self.probe_x,
            probe_moment=self.probe_x.T @ self.probe_r,
            probe_square=self.probe_r.T @ self.probe_r,
            gram=np.einsum("nk,nd,ne->kde", ones, self.x, self.x),
            moment=np.einsum("nk,nd,n->kd", ones, self.x, self.r),
            energy=ones.T @ self.r**2,
        )


def dense(world: World, v: _Variances) -> tuple[np.ndarray, np.ndarray]:
    """The posterior of all K · D weights at once: every row and every prior covariance written out.

    Returns:
        The means ``(K, D)`` and the covariance ``(K, D, K, D)``.
    """
    data = _centred(world.sums)
    prior = np.zeros((K, D, K, D))
    for a in range(K):
        for b in range(K):
            same = v.own[GROUPS] if a == b else 0.0
            prior[a, :, b, :] = np.diag(v.shared[GROUPS] + same)
    design, target, groups = [], [], []
    every = [
        (x, k, r, i) for i, x in enumerate(world.probe_x) for k, r in enumerate(world.probe_r[i])
    ]
    n = len(world.probe_x)
    every += [
        (x, int(k), float(r), n + i)
        for i, (x, k, r) in enumerate(zip(world.x, world.arm, world.r, strict=True))
    ]
    for x, k, r, request in every:
        row = np.zeros((K, D))
        row[k] = data.centring @ x
        design.append(row.ravel())
        target.append((r - data.mean) / data.scale[k])
        groups.append(request)
    rows, told = np.array(design), np.array(target)
    same_request = np.equal.outer(groups, groups)
    noise = v.noise * np.eye(len(rows)) + v.request * same_request
    precision = np.linalg.inv(prior.reshape(K * D, K * D)) + rows.T @ np.linalg.solve(noise, rows)
    covariance = np.linalg.inv(precision)
    mean = covariance @ rows.T @ np.linalg.solve(noise, told)
    return mean.reshape(K, D), covariance.reshape(K, D, K, D)


@pytest.mark.parametrize(("probes", "served"), [(6, 15), (0, 15), (6, 0)])
def test_the_means_are_those_of_the_posterior_of_all_weights_at_once(probes, served):
    world = World(probes, served)
    found = _solve(_centred(world.sums), GROUPS, VARIANCES)
    mean, _ = dense(world, VARIANCES)
    assert np.allclose(found.mean, mean, rtol=0, atol=1e-9)


def test_the_covariances_are_those_of_the_posterior_of_all_weights_at_once():
    world = World(6, 15)
    found = _solve(_centred(world.sums), GROUPS, VARIANCES)
    _, covariance = dense(world, VARIANCES)
    inverse = found.inverse
    for a in range(K):
        for b in range(K):
            mine = inverse[a] @ found.couple @ inverse[b] + (inverse[a] if a == b else 0.0)
            assert np.allclose(mine, covariance[a, :, b, :], rtol=0, atol=1e-9)


def test_the_sums_are_centred_as_the_rows_would_be():
    world = World(6, 15)
    data = _centred(world.sums)
    z = world.x @ data.centring.T
    rows = np.concatenate([world.probe_x, world.x])
    assert np.allclose(data.centring @ rows.mean(axis=0), np.eye(D)[0])
    r = (world.r - data.mean) / data.scale[world.arm]
    for arm in range(K):
        own = world.arm == arm
        assert np.allclose(data.gram[arm], z[own].T @ z[own])
        assert np.allclose(data.moment[arm], z[own].T @ r[own])
        assert data.energy[arm] == pytest.approx(np.square(r[own]).sum())
    told = (world.probe_r - data.mean) / data.scale
    assert np.allclose(data.probe_moment, (world.probe_x @ data.centring.T).T @ told)
    assert np.allclose(data.probe_square, told.T @ told)


def test_predictions_come_back_in_the_rewards_own_unit_and_offset():
    world = World(40, 200)
    usual = fit(world.sums, GROUPS, doubt=0.5, rounds=5)
    world.r, world.probe_r = 1000 * world.r + 7, 1000 * world.probe_r + 7
    other = fit(world.sums, GROUPS, doubt=0.5, rounds=5)
    assert np.allclose(other.weights, 1000 * usual.weights + 7 * np.eye(D)[0], atol=1e-5)
    assert np.allclose(other.covariance, 1e6 * usual.covariance, rtol=1e-6)


def test_the_noise_of_arms_and_of_requests_is_found_from_probes():
    random = np.random.default_rng(0)
    n, k = 4_000, 4
    x = np.column_stack([np.ones(n), random.normal(size=n)])
    request, own = np.sqrt(0.3), np.sqrt(0.7)
    r = request * random.normal(size=(n, 1)) + own * random.normal(size=(n, k))
    none = np.zeros((k, 2, 2)), np.zeros((k, 2)), np.zeros(k)
    sums = Sums(x.T @ x, x.T @ r, r.T @ r, *none)
    data, groups = _centred(sums), np.array([0, 1])
    variances = hierarchy._chosen(data, groups, 0.5, 20)
    # 4,000 probes: a standard error of about .02 each; false alarm below 1 in 1,000.
    assert variances.noise == pytest.approx(0.7, abs=0.07)
    assert variances.request == pytest.approx(0.3, abs=0.07)
    assert variances.own[1] < 0.001


@pytest.mark.parametrize("seed", range(6))
def test_few_rounds_find_the_variances_that_hundreds_of_plain_ones_would(seed):
    random = np.random.default_rng(seed)
    k, d, probes, served = 8, 12, 120, 500
    groups = np.array([0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3])
    # The arms' own parts: of the second group much, of the others nothing.
    weights = random.normal(size=(k, d)) * np.sqrt([0.1, *[0.0] * 3, *[0.1] * 4, *[0.0] * 4])
    x = np.column_stack([np.ones(probes + served), random.normal(size=(probes + served, d - 1))])
    r = x @ weights.T + random.normal(size=(len(x), k))
    arm = np.eye(k)[random.integers(k, size=served)]
    told, probed, single = arm * r[probes:], x[:probes], x[probes:]
    data = _centred(
        Sums(
            probed.T @ probed,
            probed.T @ r[:probes],
            r[:probes].T @ r[:probes],
            np.einsum("nk,nd,ne->kde", arm, single, single),
            told.T @ single,
            np.square(told).sum(axis=0),
        )
    )
    found = hierarchy._chosen(data, groups, 0.5, 20)
    plain = _Variances(np.array([1.0, *[0.03] * 3]), np.array([1.0, *[0.03] * 3]))
    for _ in range(400):
        plain = hierarchy._updated(data, groups, plain, _solve(data, groups, plain), 0.5)
    assert np.allclose(found.own, plain.own, rtol=0.05, atol=5e-4)
    assert found.own[2] > 0.02
    assert found.noise == pytest.approx(plain.noise, rel=0.01)


def test_one_arm_alone_and_equal_rewards_give_finite_weights():
    x = np.column_stack([np.ones(9), np.arange(9.0)])
    for reward in (np.zeros(9), np.arange(9.0)):
        sums = Sums(
            np.zeros((2, 2)),
            np.zeros((2, 1)),
            np.zeros((1, 1)),
            (x.T @ x)[None],
            (x.T @ reward)[None],
            np.array([reward @ reward]),
        )
        found = fit(sums, np.array([0, 1]), doubt=0.5, rounds=5)
        assert np.isfinite(found.weights).all()
        assert np.isfinite(found.covariance).all()
