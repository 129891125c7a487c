"""Estimators of a policy's value per episode, on a log of episodes of several decisions.

A step's weight is the product of the importance weights until then, so a reward is weighted by no
choice that came after it. With γ the discount, ρ_t that product and q̂, v̂ a cross-fitted model:

* ``pdis``: mean over episodes of Σ_t γᵗ ρ_t r_t (Precup, Sutton & Singh 2000).
* ``wpdis``: each step's weights divided by their mean over episodes; biased, consistent.
* ``dr``: mean of Σ_t γᵗ (ρ_t (r_t − q̂_t) + ρ_{t−1} v̂_t) (Jiang & Li 2016).
* ``wdr``: the same with weights normalised as in ``wpdis`` (Thomas & Brunskill 2016).

Episodes differ in length: one that has ended stays in a state that earns nothing, with the weight
that it ended with. Episodes are the independent units of the intervals.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from learners.episodes import Steps
from learners.errors import EstimateError
from learners.ope.evaluations import Evaluation
from learners.ope.logs import Bools, Floats, Ints
from learners.ope.models import FOLDS, penalty
from learners.ope.rows import check_distribution, check_log

EpisodeEstimator = Literal["pdis", "wpdis", "dr", "wdr"]
EPISODE_ESTIMATORS: tuple[EpisodeEstimator, ...] = get_args(EpisodeEstimator)
_MOST_ROUNDS = 64
"""Steps ahead that the value model looks: later ones hardly move it, and it is no more than a
baseline."""


def evaluate_episodes(
    steps: Steps,
    distribution: Floats,
    estimator: EpisodeEstimator = "wdr",
    *,
    discount: float = 1.0,
    values: Floats | None = None,
    clusters: Ints | None = None,
) -> Evaluation:
    """Evaluate a policy on episodes.

    Args:
        steps: of :func:`learners.episodes.unroll`: n steps of E episodes.
        distribution: the judged policy's probabilities for each row of ``steps.log``, ``(n, K)``.
        estimator: of :data:`EPISODE_ESTIMATORS`.
        discount: γ in [0, 1].
        values: for dr and wdr: what each arm is worth from each step on, shape ``(n, K)``; those
            of :func:`value_model` if not given.
        clusters: which episodes belong together (users), shape ``(E,)``, in the order of ``steps``.

    Returns:
        Contributions and weights by episode, shape ``(E,)``; an episode's weight is that of its
        last step.

    Raises:
        EstimateError: There are no steps, the shapes do not fit, the distribution is none, or
            (wpdis, wdr) the judged policy takes the served steps of no episode.
    """
    check_log(steps.log, (), None)
    check_distribution(steps.log, distribution)
    missing = int(np.isnan(steps.log.propensity).sum())
    if missing:
        raise EstimateError(f"{missing} steps have no propensity: leave their episodes out")
    if not 0.0 <= discount <= 1.0:
        raise EstimateError(f"discount is {discount}: give a number from 0 to 1")
    first = steps.step == 0
    count = int(first.sum())
    if clusters is not None and clusters.shape != (count,):
        raise EstimateError(f"clusters {clusters.shape} are not {(count,)}, one an episode")
    if estimator in {"pdis", "wpdis"}:
        worth = np.zeros(distribution.shape)
    else:
        worth = value_model(steps, distribution, discount=discount) if values is None else values
    if worth.shape != distribution.shape:
        raise EstimateError(f"values {worth.shape} are not {distribution.shape}")
    rows = np.arange(len(steps.step))
    walk = _Walk(
        np.cumsum(first) - 1,
        distribution[rows, steps.log.action] / steps.log.propensity,
        steps.reward - worth[rows, steps.log.action],
        np.einsum("nk,nk->n", distribution, worth),
        _by_step(steps.step),
    )
    influence, weights = walk.contributions(
        count, discount, normalised=estimator in {"wpdis", "wdr"}
    )
    return Evaluation(estimator, float(influence.mean()), influence, weights, clusters)


@dataclass(frozen=True, slots=True, eq=False)
class _Walk:
    """The steps of all episodes, one step of each at a time.

    Attributes:
        episode: from 0, shape ``(n,)``.
        weights: each step's own importance weight, shape ``(n,)``.
        beyond: reward minus the served arm's value, shape ``(n,)``.
        value: of the step under the judged policy, shape ``(n,)``.
        rows: the rows of each step from 0.
    """

    episode: Ints
    weights: Floats
    beyond: Floats
    value: Floats
    rows: list[Ints]

    def contributions(
        self, count: int, discount: float, *, normalised: bool
    ) -> tuple[Floats, Floats]:
        """Each episode's contribution and its last weight, shape ``(E,)`` both."""
        total, reached = np.zeros(count), np.ones(count)
        factor = 1.0
        for rows in self.rows:
            episode = self.episode[rows]
            for column in (self.value, self.beyond):
                earned = np.zeros(count)
                earned[episode] = column[rows]
                total += factor * _step(reached, earned, normalised=normalised)
                if column is self.value:
                    reached[episode] *= self.weights[rows]
            factor *= discount
        return total, reached


def _step(reached: Floats, earned: Floats, *, normalised: bool) -> Floats:
    """Contributions to the mean of ``reached · earned``, or to its ratio to that of ``reached``."""
    if not normalised:
        return reached * earned
    mean = float(reached.mean())
    if mean <= 0.0:
        raise EstimateError("the judged policy takes the served steps of no episode: no overlap")
    value = float((reached * earned).mean()) / mean
    # Delta method: the linearised contribution of each episode to the ratio.
    return np.asarray(value + reached * (earned - value) / mean)


def value_model(
    steps: Steps, distribution: Floats, *, discount: float = 1.0, folds: int = FOLDS
) -> Floats:
    """What each arm is worth from each step on under a policy, cross-fitted, shape ``(n, K)``.

    Fitted Q evaluation (Le, Voloshin & Yue 2019) with one ridge regression an arm: the target is
    what the step earned and what the policy is worth at the next step by the model before. Episodes
    are dealt to folds, so no model has seen the episode that it predicts.

    Args:
        steps: n steps.
        distribution: the judged policy's, shape ``(n, K)``.
        discount: γ in [0, 1].
        folds: at least 2.
    """
    folds = max(2, folds)
    n, k = distribution.shape
    fold = (np.cumsum(steps.step == 0) - 1) % folds
    found = np.empty((n, k))
    for number in range(folds):
        held = fold == number
        if held.any():
            found[held] = steps.log.x[held] @ _fitted(steps, distribution, ~held, discount).T
    return found


def _fitted(steps: Steps, distribution: Floats, taught: Bools, discount: float) -> Floats:
    """Weights ``(K, d)`` from some episodes."""
    x, d, k = steps.log.x[taught], steps.log.x.shape[1], distribution.shape[1]
    weights = np.zeros((k, d))
    if not len(x):
        return weights
    action, policy = steps.log.action[taught], distribution[taught]
    reward, last, to_go = steps.reward[taught], steps.last[taught], steps.to_go[taught]
    served = [action == arm for arm in range(k)]
    solve = [np.linalg.inv(x[rows].T @ x[rows] + penalty(d)) for rows in served]
    mean = float(to_go.mean())
    limits = float(to_go.min()), float(to_go.max())
    weights[:, 0] = mean
    for _ in range(min(steps.longest, _MOST_ROUNDS)):
        # No value beyond what an episode ever earned: a linear model may run away from itself.
        ahead = np.einsum("nk,nk->n", policy, np.clip(x @ weights.T, *limits))
        target = reward.copy()
        target[:-1] += np.where(last[:-1], 0.0, discount * ahead[1:])
        for arm, rows in enumerate(served):
            weights[arm] = solve[arm] @ (x[rows].T @ (target[rows] - mean))
            weights[arm, 0] += mean
    return weights


def _by_step(step: Ints) -> list[Ints]:
    """The rows of each step from 0."""
    order = np.argsort(step, kind="stable")
    return np.split(order, np.cumsum(np.bincount(step))[:-1])
