"""A scorer for a pool that has changed: no retraining, and no arm that is never tried."""

from collections.abc import Sequence

import numpy as np

from learners.scorer import Scorer


def with_arms(scorer: Scorer, arms: Sequence[str]) -> Scorer:
    """The scorer over exactly these arms, in this order.

    An arm that it knows keeps its numbers. A new arm is taken to be as good as the known ones are
    on average, so that exploration tries it; with confidence bounds it has the widest one.
    """
    names = tuple(arms)
    if names == scorer.arms:
        return scorer
    known = {arm: i for i, arm in enumerate(scorer.arms)}
    kept = [known[arm] for arm in names if arm in known]
    d = scorer.weights.shape[1]
    average = scorer.weights[kept].mean(axis=0) if kept else np.zeros(d)
    weights = np.stack([scorer.weights[known[a]] if a in known else average for a in names])
    inverse = None
    if scorer.inverse is not None:
        inverse = np.stack([scorer.inverse[known[a]] if a in known else np.eye(d) for a in names])
    return Scorer(names, weights, scorer.exploration, inverse, scorer.alpha)
