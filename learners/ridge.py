"""Ridge regression from sufficient statistics, an arm each: add, fade, merge, decompose, fit.

The statistics of a log are sums, so learning is a matrix product, any order of the log gives the
same, and several workers' add up. A decomposition makes every further penalty cheap; the one of
the largest marginal likelihood is taken (MacKay 1992, "Bayesian interpolation"), as a short log
needs a strong penalty and a long one a weak.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.contract import Params, Spec, carried
from learners.errors import SpecError
from learners.schedule import at_least

RIDGE_PARAMS: Params = {"ridge": 0.0, "ridge_constant": 1.0, "half_life": 0.0}
"""``ridge``: penalty on the weights, 0 to choose it; ``ridge_constant``: on a constant;
``half_life``: interactions of all arms after which one counts for half, 0 for never."""
RIDGE_LIMITS = {"ridge": 0.0, "ridge_constant": 1e-9, "half_life": 0.0}

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
"""What ``ridge=0`` chooses from."""
MAX_ENTRIES = 6 * 2**20
"""Arms × columns²: what still fits a bundle of 64 MiB."""
LEAST_POOLING = 1e-6
"""Below it nothing would hold the shared weights where no arm has data."""

_SUMS = ("gram", "moment", "energy", "count")
_LEAST_RESIDUAL = 1e-12
"""As a part of the variance: less is rounding, not fit."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Per arm, over rows of weight w, columns x and m targets t.

    Attributes:
        gram: Σ w x xᵀ, shape ``(K, d, d)``.
        moment: Σ w x tᵀ, shape ``(K, d, m)``.
        energy: Σ w t², shape ``(K, m)``.
        count: Σ w, shape ``(K,)``.
    """

    gram: Floats
    moment: Floats
    energy: Floats
    count: Floats

    @classmethod
    def empty(cls, arms: int, columns: int, targets: int = 1) -> Self:
        """No rows yet.

        Raises:
            SpecError: The statistics would be too large.
        """
        if arms * columns * columns > MAX_ENTRIES:
            raise SpecError(
                f"{arms} arms of {columns}² entries: at most {MAX_ENTRIES} are taken in all; "
                "use fewer columns, or the learner vw or river"
            )
        shapes = (arms, columns, columns), (arms, columns, targets), (arms, targets), (arms,)
        return cls(*(np.zeros(shape) for shape in shapes))

    def add(self, x: Floats, action: NDArray[np.int64], weight: Floats, targets: Floats) -> Self:
        """With n rows more.

        Args:
            x: shape ``(n, d)``.
            action: each row's arm, shape ``(n,)``.
            weight: shape ``(n,)``.
            targets: shape ``(n, m)``.
        """
        order = np.argsort(action, kind="stable")
        root = np.sqrt(weight[order])[:, None]
        rows, told = x[order] * root, targets[order] * root
        count = self.count + np.bincount(action, weight, len(self.gram))
        gram, moment, energy = self.gram.copy(), self.moment.copy(), self.energy.copy()
        ends = np.cumsum(np.bincount(action, minlength=len(gram)))
        for arm in np.unique(action).tolist():
            own = slice(ends[arm - 1] if arm else 0, ends[arm])
            # A matrix by its own transpose takes half the time, and is symmetric to the last bit.
            gram[arm] += rows[own].T @ rows[own]
            moment[arm] += rows[own].T @ told[own]
            energy[arm] += np.square(told[own]).sum(axis=0)
        return type(self)(gram, moment, energy, count)

    def faded(self, share: float) -> Self:
        """With this share left of every row."""
        if share == 1.0:
            return self
        return self._each(lambda values: values * share)

    def rearmed(self, old: Spec, new: Spec) -> Self:
        """For another spec's arms."""
        return self._each(lambda values: carried(values, old, new))

    def only(self, arms: Sequence[int]) -> Self:
        """Of some of the arms."""
        return self._each(lambda values: values[list(arms)])

    def beside(self, others: Self) -> Self:
        """These arms, then the others."""
        more = others.tensors()
        return type(self)(
            **{name: np.concatenate([one, more[name]]) for name, one in self.tensors().items()}
        )

    def _each(self, change: Callable[[Floats], Floats]) -> Self:
        return type(self)(**{name: change(values) for name, values in self.tensors().items()})

    def tensors(self) -> dict[str, Floats]:
        """What a snapshot stores."""
        return {name: getattr(self, name) for name in _SUMS}


def merge(base: Statistics, many: Sequence[Statistics]) -> Statistics:
    """The statistics of all rows that each learnt on from ``base``, and of the base's own.

    Each number is summed from the least to the largest, so no order of the workers shows: any
    gives the same bytes.
    """

    def together(name: str) -> Floats:
        before = getattr(base, name)
        added = np.stack([getattr(one, name) - before for one in many])
        return np.asarray(before + np.sort(added, axis=0).sum(axis=0))

    return Statistics(**{name: together(name) for name in _SUMS})


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """``(gram + diag(penalty))⁻¹`` of many matrices, ready for any ridge.

    The first ``len(fixed)`` columns have a penalty of their own, the others the ridge. With the
    first eliminated, the eigenvectors of what remains do not depend on the ridge::

        inverse = basis · diag(1 / values) · basisᵀ,   values = base + (0 …, ridge …)

    Attributes:
        basis: shape ``(K, d, d)``.
        base: shape ``(K, d)``.
        fixed: the first columns' penalties.
    """

    basis: Floats
    base: Floats
    fixed: Floats

    @classmethod
    def of(cls, gram: Floats, fixed: Floats) -> Self:
        """Decompose ``(K, d, d)``: the cost is that of K eigendecompositions."""
        q, d = len(fixed), gram.shape[-1]
        first, rotation = np.linalg.eigh(gram[:, :q, :q] + np.diag(fixed))
        if q:  # below the least penalty is rounding too
            first = np.maximum(first, fixed.min())
        across = rotation / first[:, None, :] @ (rotation.swapaxes(1, 2) @ gram[:, :q, q:])
        rest = gram[:, q:, q:] - gram[:, q:, :q] @ across
        left, vectors = np.linalg.eigh((rest + rest.swapaxes(1, 2)) / 2)
        basis = np.zeros((len(gram), d, d))
        basis[:, :q, :q] = rotation
        basis[:, :q, q:] = -across @ vectors
        basis[:, q:, q:] = vectors
        # Below 0 is rounding: a sum of squares has no negative eigenvalue.
        return cls(basis, np.concatenate([first, np.maximum(left, 0.0)], axis=1), fixed)

    def penalty(self, ridge: float) -> Floats:
        """Of each column, shape ``(d,)``."""
        found = np.full(self.base.shape[1], ridge)
        found[: len(self.fixed)] = self.fixed
        return found

    def factor(self, ridge: float) -> "Factor":
        """The inverses at one ridge."""
        values = self.base.copy()
        values[:, len(self.fixed) :] += ridge
        determinant = float(np.log(values).sum())
        return Factor(self.basis / np.sqrt(values)[:, None, :], determinant)


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """``root @ rootᵀ`` is the inverse of the penalised gram.

    Attributes:
        root: shape ``(K, d, d)``; times standard normal numbers it gives a posterior's draws.
        determinant: Σ log det of the K penalised grams.
    """

    root: Floats
    determinant: float

    def solve(self, right: Floats) -> Floats:
        """The inverses times ``right``, shape ``(K, d)``."""
        inner = np.matmul(right[:, None, :], self.root)
        return np.asarray(np.matmul(self.root, inner.swapaxes(1, 2))[..., 0])

    def total(self) -> Floats:
        """Σ of the K inverses, shape ``(d, d)``."""
        flat = self.root.transpose(1, 0, 2).reshape(self.root.shape[1], -1)
        return np.asarray(flat @ flat.T)

    def inverse(self) -> Floats:
        """The inverses, shape ``(K, d, d)``."""
        return np.asarray(self.root @ self.root.swapaxes(1, 2))


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The arms' regressions of one target at one penalty.

    Attributes:
        evidence: log marginal likelihood, the noise's variance at its best; up to a constant that
            no penalty changes.
        noise: that variance.
        penalty: of each column, shape ``(d,)``.
        weights: of the centred target: the posterior's mean, shape ``(K, d)``.
        factor: of each arm's own inverse.
        shared_root: times its transpose the inverse of the shared weights' precision, shape
            ``(d, d)``; None where nothing is shared.
    """

    evidence: float
    noise: float
    penalty: Floats
    weights: Floats
    factor: Factor
    shared_root: Floats | None


@dataclass(frozen=True, slots=True)
class Pooled:
    """Each arm has weights of its own, which deviate from weights that all arms share.

    With penalty P an arm's own are a priori N(shared, σ² P⁻¹), the shared N(0, σ² (pooling P)⁻¹).

    Attributes:
        ridge: penalty on the weights; 0: the one of :data:`PENALTIES` with the most evidence.
        constant: penalty on the constant.
        pooling: penalty on the shared weights, as a part of P; 0 shares nothing.
    """

    ridge: float
    constant: float
    pooling: float

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """As a learner's parameters say."""
        names = ("ridge", "ridge_constant", "pooling")
        return cls(*(float(params[name]) for name in names))

    def fit(
        self,
        statistics: Statistics,
        mean: float,
        scale: float,
        *,
        target: int = 0,
        constants: int = 1,
        whole: Decomposition | None = None,
    ) -> Fit:
        """The regressions of one target.

        Args:
            statistics: column 0 is the constant 1.
            mean: the target's over all rows.
            scale: its standard deviation.
            target: which one.
            constants: how many of the first columns have the constant's penalty.
            whole: :meth:`decomposed`, where several targets are fitted.
        """
        whole = self.decomposed(statistics, constants) if whole is None else whole
        centred = _Centred.of(statistics, mean, target)
        least = _LEAST_RESIDUAL * scale**2
        penalties = PENALTIES if self.ridge == 0.0 else (self.ridge,)
        fits = [self._fit(whole, centred, ridge, least) for ridge in penalties]
        return max(fits, key=lambda fit: fit.evidence)

    def decomposed(self, statistics: Statistics, constants: int = 1) -> Decomposition:
        """What all targets have in common: the greater part of the work."""
        return Decomposition.of(statistics.gram, np.full(constants, self.constant))

    def _fit(self, whole: Decomposition, centred: "_Centred", ridge: float, least: float) -> Fit:
        k = len(whole.base)
        penalty, factor = whole.penalty(ridge), whole.factor(ridge)
        own = factor.solve(centred.moment)
        explained = float((centred.moment * own).sum())
        gap = k * float(np.log(penalty).sum()) - factor.determinant
        if self.pooling == 0.0:
            evidence, noise = _evidence(centred, explained, gap, least)
            return Fit(evidence, noise, penalty, own, factor, None)
        # With each arm's own weights put in, only the shared ones are unknown; note that
        # gram − gram · inverse · gram = P − P · inverse · P.
        precision = (k + self.pooling) * np.diag(penalty) - _scaled(factor.total(), penalty)
        root = np.linalg.inv(np.linalg.cholesky(precision)).T
        right = penalty * own.sum(axis=0)
        shared = root @ (root.T @ right)
        gap += float(np.log(self.pooling * penalty).sum())
        gap += 2.0 * float(np.log(np.abs(np.diag(root))).sum())
        evidence, noise = _evidence(centred, explained + float(right @ shared), gap, least)
        pulled = factor.solve(np.broadcast_to(penalty * shared, own.shape))
        return Fit(evidence, noise, penalty, own + pulled, factor, root)


@dataclass(frozen=True, slots=True, eq=False)
class _Centred:
    moment: Floats
    energy: float
    count: float

    @classmethod
    def of(cls, statistics: Statistics, mean: float, target: int) -> Self:
        gram, moment = statistics.gram, statistics.moment[..., target]
        squares = statistics.energy[:, target] - 2 * mean * moment[:, 0]
        energy = float((squares + mean * mean * gram[:, 0, 0]).sum())
        return cls(moment - mean * gram[:, :, 0], energy, float(statistics.count.sum()))


def _evidence(centred: _Centred, explained: float, gap: float, least: float) -> tuple[float, float]:
    n = max(centred.count, 1.0)
    noise = max((centred.energy - explained) / n, least)
    return (gap - n * float(np.log(noise))) / 2, noise


def _scaled(matrix: Floats, by: Floats) -> Floats:
    return np.asarray(by[:, None] * matrix * by)


def check_pooling(learner: str, params: Mapping[str, Any]) -> None:
    """Refuse a pooling that is neither 0 nor enough to hold the shared weights.

    Raises:
        SpecError: It is.
    """
    if float(params["pooling"]) != 0.0:
        at_least(learner, params, {"pooling": LEAST_POOLING})
