"""Estimators of a policy's value on a log of single decisions.

With w = π(a|x) / served probability, q̂ the cross-fitted reward model and r − q̂ its residual:

* ``ips``: mean w·r (Horvitz & Thompson 1952).
* ``snips``: Σ w·r / Σ w (Swaminathan & Joachims 2015).
* ``dm``: mean of Σ_a π(a|x)·q̂(x, a), with the ridge's shrinkage taken back by held-out residuals
  (:func:`learners.ope.rows.regression`). Its interval holds the regression's sampling error, not
  the bias of a linear model that does not fit. The only one that takes rows without a propensity.
* ``dr``: mean of Σ_a π(a|x)·q̂(x, a) + w·(r − q̂) (Dudík, Langford & Li 2011).
* ``switch_dr``: dr, without the residuals of rows whose weight exceeds a threshold (Wang, Agarwal
  & Dudík 2017).
* ``dros``: dr with shrunk weights (Su, Dimakopoulou, Krishnamurthy & Dudík 2020).

The last two choose their parameter on the log itself, by :mod:`learners.ope.tuning`, and accept a
bias: their intervals are as wide as dr's, around their own value.
"""

from collections.abc import Sequence

import numpy as np

from learners.ope.evaluations import Evaluation
from learners.ope.logs import Floats, Ints, Log
from learners.ope.models import chosen_contexts
from learners.ope.rows import (
    ESTIMATORS,
    Estimator,
    Rows,
    check_distribution,
    check_log,
    model_of,
    regression,
)


def evaluate(
    log: Log,
    distribution: Floats,
    estimator: Estimator = "dr",
    *,
    predicted: Floats | None = None,
    clusters: Ints | None = None,
) -> Evaluation:
    """Evaluate a policy on a log by one estimator: see :func:`evaluate_each`."""
    found = evaluate_each(log, distribution, (estimator,), predicted=predicted, clusters=clusters)
    return found[estimator]


def evaluate_each(
    log: Log,
    distribution: Floats,
    estimators: Sequence[Estimator] = ESTIMATORS,
    *,
    predicted: Floats | None = None,
    clusters: Ints | None = None,
) -> dict[Estimator, Evaluation]:
    """Evaluate a policy on a log by several estimators.

    Args:
        log: n rows over K arms, served by any policy with known propensities.
        distribution: the judged policy's probabilities for each row, shape ``(n, K)``.
        estimators: of :data:`ESTIMATORS`.
        predicted: rewards ``(n, K)`` of :func:`learners.ope.models.reward_model`, made once per log
            so that all policies are compared with the same one.
        clusters: which rows belong together, such as a log's ``episode``, shape ``(n,)``; a
            negative one is alone. None where all rows are independent.

    Raises:
        EstimateError: The log is empty, the shapes do not fit, the distribution is none, an
            estimator needs propensities that rows lack, or nothing overlaps (snips).
    """
    check_log(log, estimators, clusters)
    check_distribution(log, distribution)
    model = model_of(log, estimators, predicted, clusters)
    rows = policy_rows(log, distribution, model, clusters)
    return {
        each: rows.evaluation(each)
        if each != "dm"
        else regression(
            log, rows, rows.direct, np.ones(len(log)), chosen_contexts(log.x, distribution)
        )
        for each in estimators
    }


def policy_rows(
    log: Log, distribution: Floats, model: Floats | None, clusters: Ints | None
) -> Rows:
    """The log as seen by a policy of this distribution ``(n, K)``."""
    share = distribution[np.arange(len(log)), log.action]
    direct = np.empty(0) if model is None else np.einsum("nk,nk->n", distribution, model)
    return Rows.of(log, share, model, direct, clusters)
