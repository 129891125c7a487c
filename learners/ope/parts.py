"""The value of parts: of segments of the traffic, of what a policy does with each arm, of arms."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.ope.estimators import policy_rows
from learners.ope.evaluations import Evaluation
from learners.ope.logs import Floats, Ints, Log
from learners.ope.models import chosen_contexts
from learners.ope.rows import (
    WITHOUT_MODEL,
    Estimator,
    Rows,
    check_distribution,
    check_log,
    model_of,
    ratio,
    recentred,
    regression,
)


def by_segment(
    log: Log,
    distribution: Floats,
    labels: NDArray[Any],
    estimator: Estimator = "dr",
    *,
    predicted: Floats | None = None,
    clusters: Ints | None = None,
) -> dict[Any, Evaluation]:
    """A policy's value in each segment of the traffic.

    Two policies' evaluations of one segment can be compared as those of the whole log.

    Args:
        log: n rows.
        distribution: the judged policy's, shape ``(n, K)``.
        labels: each row's segment, shape ``(n,)``, of any type that sorts.
        estimator: a parameter that it has is chosen in each segment.
        predicted: as of :func:`learners.ope.evaluate_each`.
        clusters: as of :func:`learners.ope.evaluate_each`.

    Returns:
        By label, in their order. By snips, segments without overlap are left out: nothing is known.

    Raises:
        EstimateError: As of :func:`learners.ope.evaluate_each`, or the labels do not fit the log.
    """
    check_log(log, (estimator,), clusters)
    check_distribution(log, distribution)
    if labels.shape != (len(log),):
        raise EstimateError(f"labels {labels.shape} are not {(len(log),)}")
    model = model_of(log, (estimator,), predicted, clusters)
    rows = policy_rows(log, distribution, model, clusters)
    names, place = np.unique(labels, return_inverse=True)
    found: dict[Any, Evaluation] = {}
    for number, name in enumerate(names.tolist()):
        inside = place == number
        if estimator == "dm":
            mass = inside.astype(np.float64)
            wanted = chosen_contexts(log.x[inside], distribution[inside])
            found[name] = regression(log, rows, rows.direct * mass, mass, wanted)
            continue
        part = rows.only(inside)
        if estimator != "snips" or part.weights.any():
            found[name] = part.evaluation(estimator)
    return found


def by_arm(
    log: Log,
    distribution: Floats,
    estimator: Estimator = "dr",
    *,
    predicted: Floats | None = None,
    clusters: Ints | None = None,
) -> dict[str, Evaluation]:
    """What a policy earns with each arm, on the requests for which it chooses that arm.

    The mean over arms, weighted by how often the policy chooses each, is the policy's value (for
    snips: by each arm's weight).

    Returns:
        By arm. Those that the policy never chooses are left out, and by ips and snips those that
        were never served where it does.

    Raises:
        EstimateError: As of :func:`learners.ope.evaluate_each`.
    """
    check_log(log, (estimator,), clusters)
    check_distribution(log, distribution)
    model = model_of(log, (estimator,), predicted, clusters)
    rows = policy_rows(log, distribution, model, clusters)
    kept, parameter = (rows.weights, None) if estimator == "dm" else rows.kept(estimator)
    found: dict[str, Evaluation] = {}
    for number, name in enumerate(log.arms):
        share, served = distribution[:, number], log.action == number
        if not share.any():
            continue
        if estimator == "dm" and model is not None:
            wanted = np.zeros((len(log.arms), log.x.shape[1]))
            wanted[number] = share @ log.x
            found[name] = regression(log, rows, share * model[:, number], share, wanted)
            continue
        used = np.where(served, kept, 0.0)
        if model is None:
            earned, mass = used * rows.reward, used if estimator == "snips" else share
        else:
            earned, mass = share * model[:, number] + used * rows.residual, share
        if used.any() or estimator not in WITHOUT_MODEL:
            weights = np.where(served, rows.weights, 0.0) / float(share.mean())
            own = ratio(estimator, earned, mass, weights, clusters)
            if model is not None and kept is not rows.weights:
                full = (
                    share * model[:, number] + np.where(served, rows.weights, 0.0) * rows.residual
                )
                own = recentred(own, ratio("dr", full, mass, weights, clusters).influence)
            found[name] = replace(own, parameter=parameter)
    return found


def of_arms(
    log: Log,
    estimator: Estimator = "dr",
    *,
    predicted: Floats | None = None,
    clusters: Ints | None = None,
) -> dict[str, Evaluation]:
    """The value of always choosing one arm, for each arm, on the rows where it is eligible.

    Returns:
        By arm; those that never served are left out: nothing is known. Two arms can be compared if
        they were eligible for the same rows.

    Raises:
        EstimateError: As of :func:`learners.ope.evaluate_each`.
    """
    check_log(log, (estimator,), clusters)
    model = model_of(log, (estimator,), predicted, clusters)
    found: dict[str, Evaluation] = {}
    for number, name in enumerate(log.arms):
        served, there = log.action == number, log.eligible[:, number]
        if not served.any():
            continue
        direct = np.empty(0) if model is None else model[:, number]
        rows = Rows.of(log, served.astype(np.float64), model, direct, clusters)
        if estimator == "dm":
            wanted = np.zeros((len(log.arms), log.x.shape[1]))
            wanted[number] = log.x[there].sum(axis=0)
            mass = there.astype(np.float64)
            found[name] = regression(log, rows, direct * mass, mass, wanted)
        else:
            found[name] = rows.only(there).evaluation(estimator)
    return found
