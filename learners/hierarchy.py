"""A Gaussian hierarchy of K arms' rewards: what they share, what is each one's own, and how sure.

    r_ik / s_k = m_k + (a + b_k) · z_i + u_i + e_ik

``z`` is the centred context, ``a`` what all arms share, ``b_k`` an arm's own part, ``u`` how hard
the request is, ``e`` noise, and ``s_k`` the standard deviation of the arm's rewards, shrunk to that
of all. Weights of one group of columns share a variance, which the data choose (empirical Bayes:
the evidence's fixed point, MacKay 1992), so that a group which tells nothing falls to nothing, and
what is left is the best fixed arm. Requests of which every arm's reward is known (probes) tell the
arms' differences, as ``u`` cancels there.

The arms are coupled by ``a`` and ``u`` in d columns only, so a fit costs K + 2 inverses of d × d.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Search = tuple[Floats, Floats]
"""The logarithms of the groups' variances, own and shared ``(2, G)``, and by how much a plain step
changes them."""

_LEAST, _MOST = 1e-5, 100.0
"""Bounds of a group's variance, in squared standard deviations of reward."""
_NEUTRAL = 0.03
"""What a group's variance is taken for at first; each fit starts there, so no fit depends on the
one before."""
_STEP = 10.0
"""By how much a variance may fall or rise in one round."""
_HASTE = 2.0
"""A variance that falls takes so many plain steps at once, until two rounds tell how it goes on."""
_MOST_HASTE = 8.0
"""So many plain steps are taken at once at most, where each brings a variance little nearer."""
_APART = 0.05
"""Logarithms of a variance that are apart enough to tell how its steps change."""
_SETTLED, _NOTHING = 0.05, 2e-3
"""Rounds end when no variance changes by more than this part, or than this part of so little."""
_PSEUDO_ROWS = 20.0
_LEAST_SCALE = 0.5
"""An arm's standard deviation counts at least this part of that of all arms."""
_BETWEEN = 0.05
_LEAST_PROBES = 10.0
_WHOLE = 32
"""Columns up to which a matrix is inverted at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """The weighted sums of one target: any order and any pieces of a log give the same.

    Attributes:
        probe_gram: Σ x xᵀ of the probes, shape ``(d, d)``.
        probe_moment: Σ x r of each arm, shape ``(d, K)``.
        probe_square: Σ r rᵀ, shape ``(K, K)``.
        gram: Σ x xᵀ of what each arm served, shape ``(K, d, d)``.
        moment: Σ x r, shape ``(K, d)``.
        energy: Σ r², shape ``(K,)``.
    """

    probe_gram: Floats
    probe_moment: Floats
    probe_square: Floats
    gram: Floats
    moment: Floats
    energy: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The posterior of the arms' weights, on contexts as they are encoded.

    Attributes:
        weights: the means, shape ``(K, d)``.
        covariance: of each arm's own part, shape ``(K, d, d)``.
    """

    weights: Floats
    covariance: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Variances:
    own: Floats
    shared: Floats
    noise: float = 0.6
    request: float = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """The sums with columns centred, and rewards about their mean in each arm's own deviation."""

    scale: Floats
    centring: Floats
    mean: float
    probes: float
    probe_gram: Floats
    probe_moment: Floats
    probe_square: Floats
    served: Floats
    gram: Floats
    moment: Floats
    energy: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Posterior:
    """``inverse`` ``(K, d, d)`` of each arm alone, what couples them ``(d, d)``, the means."""

    inverse: Floats
    couple: Floats
    mean: Floats


def fit(sums: Sums, groups: NDArray[np.int64], *, doubt: float, rounds: int) -> Fit:
    """The posterior under the variances that the data choose.

    Args:
        sums: of at least one row.
        groups: each column's group, shape ``(d,)``; 0 is the constant's alone.
        doubt: pseudo-contrasts of an own part of 0: how much evidence a group of columns needs.
        rounds: of the fixed point, at most.
    """
    data = _centred(sums)
    variances = _chosen(data, groups, doubt, rounds)
    found = _solve(data, groups, variances)
    weights = (found.mean @ data.centring) * data.scale[:, None]
    weights[:, 0] += data.mean
    spread = found.inverse * np.square(data.scale)[:, None, None]
    shift = data.centring[:, 0] - np.eye(len(groups))[0]
    spread[:, 0] += shift @ spread  # Cᵀ S C, where C differs from 1 in its first column alone
    spread[:, :, 0] += spread @ shift
    return Fit(weights, spread)


def _chosen(data: _Data, groups: NDArray[np.int64], doubt: float, rounds: int) -> _Variances:
    count = int(groups.max()) + 1
    first = np.full(count, _NEUTRAL)
    first[0] = 1.0
    variances = _Variances(first, first)
    last: Search | None = None
    for _ in range(rounds):
        before = variances
        after = _updated(data, groups, before, _solve(data, groups, before), doubt)
        now = _search(before, after)
        own, shared = _hastened(now, last)
        variances, last = replace(after, own=own, shared=shared), now
        if _settled(before, variances):
            break
    return variances


def _search(before: _Variances, after: _Variances) -> Search:
    at, then = (np.log([each.own, each.shared]) for each in (before, after))
    return at, then - at


def _hastened(now: Search, last: Search | None) -> Floats:
    """The groups' next variances ``(2, G)``: where the plain steps of two rounds lead to.

    The steps shrink towards the fixed point, and the nearer it is to 0 the slower; so the point is
    where the line through both rounds' steps is 0 (the secant method, on the logarithms).
    """
    at, plain = now
    step = np.where(plain < 0, _HASTE, 1.0) * plain
    if last is not None:
        gone = at - last[0]
        told = np.abs(gone) > _APART
        slope = (plain - last[1]) / np.where(told, gone, 1.0)
        haste = np.where(slope < 0, -1.0 / np.minimum(slope, -1.0 / _MOST_HASTE), _MOST_HASTE)
        step = np.where(told, haste * plain, step)
    most = np.log(_STEP)
    step = np.clip(step, -most, most)
    if last is None:
        step[:, 0] = plain[:, 0]  # the constant's is found almost at once
    return np.asarray(np.clip(np.exp(at + step), _LEAST, _MOST))


def _settled(before: _Variances, after: _Variances) -> bool:
    old = np.array([*before.own, *before.shared, before.noise, before.request])
    new = np.array([*after.own, *after.shared, after.noise, after.request])
    return bool((np.abs(new - old) <= _SETTLED * np.maximum(old, _NOTHING)).all())


def _centred(sums: Sums) -> _Data:
    d = sums.moment.shape[1]
    probes, served = float(sums.probe_gram[0, 0]), sums.gram[:, 0, 0]
    count = probes + served
    means = (sums.probe_moment[0] + sums.moment[:, 0]) / np.maximum(count, 1e-300)
    squares = np.maximum(np.diag(sums.probe_square) + sums.energy - count * means**2, 0.0)
    grand = (count @ means) / count.sum()
    between = float(count @ np.square(means - grand))
    # Where arms differ far more than their rewards vary, that is the measure of both.
    level = (float(squares.sum()) + _BETWEEN * between) / float(count.sum())
    shrunk = (squares + _PSEUDO_ROWS * level) / (count + _PSEUDO_ROWS)
    scale = np.sqrt(np.maximum(shrunk, _LEAST_SCALE**2 * level))
    scale = np.where(scale > 0, scale, 1.0)
    every = sums.probe_gram + sums.gram.sum(axis=0)
    centring = np.eye(d)
    centring[1:, 0] = -every[0, 1:] / every[0, 0]
    row = sums.probe_moment[0]
    mean = float((row.sum() + sums.moment[:, 0].sum()) / count.sum())
    about = sums.probe_square - mean * (row[:, None] + row[None]) + mean * mean * probes
    energy = sums.energy - 2 * mean * sums.moment[:, 0] + mean * mean * served
    return _Data(
        scale=scale,
        centring=centring,
        mean=mean,
        probes=probes,
        probe_gram=centring @ sums.probe_gram @ centring.T,
        probe_moment=centring @ (sums.probe_moment - mean * sums.probe_gram[:, :1]) / scale,
        probe_square=about / np.outer(scale, scale),
        served=served,
        gram=_centred_grams(sums.gram, centring[:, 0] - np.eye(d)[0]),
        moment=(sums.moment - mean * sums.gram[:, :, 0]) @ centring.T / scale[:, None],
        energy=energy / scale**2,
    )


def _centred_grams(gram: Floats, shift: Floats) -> Floats:
    """``C G Cᵀ`` of each gram ``(K, d, d)``; C is 1 but for its first column's ``shift``."""
    rows = gram + shift[:, None] * gram[:, :1]
    return np.asarray(rows + rows[:, :, :1] * shift)


def _solve(data: _Data, groups: NDArray[np.int64], v: _Variances) -> _Posterior:
    """The precision is block-diagonal less what couples the arms, which has rank d."""
    k, d = data.moment.shape
    own, shared = v.own[groups], v.shared[groups]
    alone, single = 1.0 / v.noise, 1.0 / (v.noise + v.request)
    both = alone * alone / (1.0 / max(v.request, 1e-9) + k * alone)
    blocks = single * data.gram
    blocks += alone * data.probe_gram
    blocks[:, np.arange(d), np.arange(d)] += 1.0 / own
    inverse = _inverse(blocks)
    low = both * data.probe_gram + np.diag(own**-2.0 / (1.0 / shared + k / own))
    couple = np.linalg.solve(np.eye(d) - low @ inverse.sum(axis=0), low)  # (low⁻¹ - Σ inverse)⁻¹
    told = alone * data.probe_moment.T - both * data.probe_moment.sum(axis=1)
    means = (inverse @ (told + single * data.moment)[..., None])[..., 0]
    joint = means + inverse @ (couple @ means.sum(axis=0))
    return _Posterior(inverse, np.asarray((couple + couple.T) / 2, dtype=np.float64), joint)


def _inverse(matrices: Floats) -> Floats:
    """Inverses ``(K, d, d)`` of positive definite matrices, by halves (Schur's complement).

    Most of the work becomes products of matrices: two thirds of the time of ``np.linalg.inv``.
    """
    d = matrices.shape[-1]
    if d <= _WHOLE:
        return np.asarray(np.linalg.inv(matrices), dtype=np.float64)
    half = d // 2
    first = _inverse(matrices[:, :half, :half])
    across = matrices[:, half:, :half] @ first
    last = _inverse(matrices[:, half:, half:] - across @ matrices[:, :half, half:])
    corner = last @ across
    found = np.empty_like(matrices)
    found[:, half:, half:] = last
    found[:, half:, :half] = -corner
    found[:, :half, half:] = -corner.swapaxes(1, 2)
    found[:, :half, :half] = first + across.swapaxes(1, 2) @ corner
    return found


def _updated(
    data: _Data, groups: NDArray[np.int64], v: _Variances, found: _Posterior, doubt: float
) -> _Variances:
    """One round of the fixed point: each variance is what its weights show, by the known ones."""
    k = len(found.mean)
    if k == 1:
        return v
    total = found.inverse.sum(axis=0)
    common_covariance = (total + total @ found.couple @ total) / k
    common = np.diag(common_covariance)
    every = np.einsum("kjj->j", found.inverse)
    rows = found.inverse.reshape(-1, len(total))  # one product, not one an arm
    spread = np.einsum("ij,ij->i", rows @ found.couple, rows)
    every = every + spread.reshape(k, -1).sum(axis=0)
    unsure = np.maximum(every - common, 0.0)
    middle = found.mean.mean(axis=0)
    own_square, common_square = np.square(found.mean - middle).sum(axis=0), k * middle**2
    own, shared = v.own.copy(), v.shared.copy()
    for group in np.unique(groups).tolist():
        columns = groups == group
        size, joint = int(columns.sum()), v.own[group] + k * v.shared[group]
        free = (k - 1) * size
        known = max(free - unsure[columns].sum() / v.own[group], 1e-3 * free)
        own[group] = own_square[columns].sum() / (known + (doubt * (k - 1) if group else 0.0))
        sure = max(size - common[columns].sum() / joint, 1e-3 * size)
        shared[group] = max((common_square[columns].sum() / sure - own[group]) / k, _LEAST)
    shared[0] = max(float(shared[0]), 1.0)
    noise, request = _noise(data, v, found, np.asarray(common_covariance))
    return _Variances(np.clip(own, _LEAST, _MOST), shared, noise, request)


def _noise(
    data: _Data, v: _Variances, found: _Posterior, common_covariance: Floats
) -> tuple[float, float]:
    """The residual variance of arms and of requests; without probes only their sum is seen."""
    k, n, mean = len(found.mean), data.probes, found.mean
    if n > _LEAST_PROBES:
        gram, moment = data.probe_gram, data.probe_moment
        rest = np.trace(data.probe_square) - 2 * (moment.T * mean).sum()
        rest += ((mean @ gram) * mean).sum()
        whole = mean.sum(axis=0)
        common = data.probe_square.sum() - 2 * moment.sum(axis=1) @ whole + whole @ gram @ whole
        common /= k
        used_common = min((gram * common_covariance).sum() / (v.noise + k * v.request), 0.8 * n)
        used = min((gram * found.inverse.sum(axis=0)).sum() / v.noise / k, 0.8 * n)
        noise = max((rest - common) / ((k - 1) * (n - used)), 1e-3)
        return float(noise), float(max((common / (n - used_common) - noise) / k, 1e-3 * noise))
    seen = float(data.served.sum())
    rest = data.energy.sum() - 2 * (data.moment * mean).sum()
    rest += ((data.gram @ mean[..., None])[..., 0] * mean).sum()
    used = (data.gram * found.inverse).sum() / (v.noise + v.request)
    both = max(rest / max(seen - used, 0.2 * seen + 1.0), 1e-3)
    share = v.request / (v.noise + v.request)
    return float(both * (1.0 - share)), float(both * share)
