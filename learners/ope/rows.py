"""What estimators compute on: a log's rows as seen by one judged policy, a few numbers each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from learners.errors import EstimateError
from learners.ope import tuning
from learners.ope.evaluations import Evaluation
from learners.ope.logs import Bools, Floats, Ints, Log
from learners.ope.models import implied_weights, reward_model

Estimator = Literal["ips", "snips", "dm", "dr", "switch_dr", "dros"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
WITHOUT_MODEL: tuple[Estimator, ...] = ("ips", "snips")
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n rows; a column that no wanted estimator reads is empty.

    Attributes:
        reward: shape ``(n,)``.
        weights: importance weights of the served arms, shape ``(n,)``.
        direct: predicted value under the judged policy, shape ``(n,)``.
        residual: reward minus the served arm's prediction, shape ``(n,)``.
        clusters: as of :class:`Evaluation`.
    """

    reward: Floats
    weights: Floats
    direct: Floats
    residual: Floats
    clusters: Ints | None

    @classmethod
    def of(
        cls,
        log: Log,
        share: Floats,
        model: Floats | None,
        direct: Floats,
        clusters: Ints | None,
    ) -> "Rows":
        """As seen by a policy that chooses the served arm with probability ``share``, ``(n,)``."""
        residual = np.empty(0)
        if model is not None:
            residual = log.reward - model[np.arange(len(log)), log.action]
        return cls(log.reward, share / log.propensity, direct, residual, clusters)

    def only(self, index: Bools) -> "Rows":
        """Some of them."""
        found = {
            name: getattr(self, name)[index]
            for name in ("reward", "weights", "direct", "residual")
            if getattr(self, name).size
        }
        return replace(
            self, clusters=None if self.clusters is None else self.clusters[index], **found
        )

    def evaluation(self, estimator: Estimator) -> Evaluation:
        """By any estimator but dm.

        Raises:
            EstimateError: For snips, if the judged policy never chooses what was served.
        """
        if estimator == "snips":
            if not self.weights.any():
                raise EstimateError("the judged policy never chooses what was served: no overlap")
            earned = self.weights * self.reward
            return ratio(estimator, earned, self.weights, self.weights, self.clusters)
        kept, parameter = self.kept(estimator)
        influence = kept * self.reward
        if estimator != "ips":
            influence = self.direct + kept * self.residual
        value = float(influence.mean())
        found = Evaluation(estimator, value, influence, self.weights, self.clusters, parameter)
        if kept is self.weights:
            return found
        influence = self.direct + self.weights * self.residual
        return recentred(found, influence)

    def kept(self, estimator: Estimator) -> tuple[Floats, float | None]:
        """The weights that the estimator uses, and the parameter that it chose for that."""
        if estimator == "switch_dr":
            spread = float(np.ptp(self.reward))
            most = tuning.threshold(self.weights, self.direct, self.residual, spread)
            return np.where(self.weights <= most, self.weights, 0.0), most
        if estimator == "dros":
            most = tuning.shrinkage(self.weights, self.direct, self.residual)
            return tuning.shrunk(self.weights, most), most
        return self.weights, None


def recentred(found: Evaluation, plain: Floats) -> Evaluation:
    """As sure as dr is, whose contributions ``(n,)`` are the plain ones.

    A smaller weight varies less, and is biased. Both rules take it only where variance and squared
    bias together seem less than dr's variance, so dr's spread covers both and its own does not.
    """
    return replace(found, influence=plain + (found.value - float(plain.mean())))


def ratio(
    estimator: Estimator,
    earned: Floats,
    mass: Floats,
    weights: Floats,
    clusters: Ints | None,
) -> Evaluation:
    """``Σ earned / Σ mass``, linearised (delta method): both shape ``(n,)``, some mass not 0."""
    total = float(mass.mean())
    value = float(earned.mean()) / total
    influence = value + (earned - value * mass) / total
    return Evaluation(estimator, value, influence, weights, clusters)


def regression(log: Log, rows: Rows, predicted: Floats, mass: Floats, wanted: Floats) -> Evaluation:
    """The direct method on a part of what a policy does, ``Σ predicted / Σ mass``, corrected.

    A regression that is penalised draws all arms together, which is unjust to a policy that knows
    them apart. So each row's held-out residual is added with the weight that the regressions give
    the row, wherever it lies in the log (augmented balancing: Athey, Imbens & Wager 2018). No
    propensity is needed for it, and the interval is that of a method linear in the rewards.

    Args:
        log: n rows.
        rows: the same with residuals.
        predicted: each row's predicted value, as far as it belongs to the part, shape ``(n,)``.
        mass: how far it does, shape ``(n,)``, some not 0.
        wanted: of :func:`learners.ope.models.chosen_contexts` over the part, shape ``(K, d)``.
    """
    found = ratio("dm", predicted, mass, mass, rows.clusters)
    weights = implied_weights(log, wanted) / float(mass.mean())
    influence = found.influence + weights * rows.residual
    return replace(found, value=float(influence.mean()), weights=weights, influence=influence)


def model_of(
    log: Log, estimators: Sequence[Estimator], predicted: Floats | None, clusters: Ints | None
) -> Floats | None:
    """The reward model ``(n, K)`` that these estimators need, None if none.

    Raises:
        EstimateError: The given one does not fit the log.
    """
    if set(estimators) <= set(WITHOUT_MODEL):
        return None
    if predicted is None:
        return reward_model(log, clusters=clusters)
    if predicted.shape != log.eligible.shape:
        raise EstimateError(f"predicted {predicted.shape} is not {log.eligible.shape}")
    return predicted


def check_log(log: Log, estimators: Sequence[Estimator], clusters: Ints | None) -> None:
    """Refuse a log that these estimators cannot use.

    Raises:
        EstimateError: It is empty, lacks propensities, or the clusters do not fit.
    """
    n = len(log)
    if n == 0:
        raise EstimateError("the log is empty: there is nothing to evaluate on")
    if clusters is not None and clusters.shape != (n,):
        raise EstimateError(f"clusters {clusters.shape} are not {(n,)}")
    missing = int(np.isnan(log.propensity).sum())
    others = [each for each in estimators if each != "dm"]
    if missing and others:
        raise EstimateError(
            f"{missing} of {n} rows have no propensity, which {others[0]} needs: evaluate by dm, "
            "or leave them out"
        )


def check_distribution(log: Log, distribution: Floats) -> None:
    """Refuse what is no distribution over each row's eligible arms.

    Raises:
        EstimateError: Naming the first row.
    """
    if distribution.shape != log.eligible.shape:
        raise EstimateError(f"distribution {distribution.shape} is not {log.eligible.shape}")
    total = distribution.sum(axis=1)
    good = np.abs(total - 1.0) <= _SUM_TOLERANCE
    good &= ~((distribution < 0) | ((distribution > 0) & ~log.eligible)).any(axis=1)
    if not good.all():
        row = int(np.argmin(good))
        raise EstimateError(
            f"row {row}: {distribution[row].round(4).tolist()} is no distribution over the "
            "eligible arms"
        )
