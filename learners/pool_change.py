"""A scorer for a pool or a floor that has changed: no retraining, no arm that is never tried."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from learners.scorer import Scorer


def with_arms(scorer: Scorer, arms: Sequence[str]) -> Scorer:
    """The scorer over exactly these arms, in this order.

    An arm that it knows keeps its numbers. A new arm is taken to be as the known ones are on
    average, its confidence bound included: it is served by the exploration's floor until a
    version has learnt it. With the widest bound it would take most of the traffic, unjudged.
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
        usual = scorer.inverse[kept].mean(axis=0) if kept else np.eye(d)
        inverse = np.stack([scorer.inverse[known[a]] if a in known else usual for a in names])
    return Scorer(names, weights, scorer.exploration, inverse, scorer.alpha)


def with_floor(scorer: Scorer, floor: float) -> Scorer:
    """The scorer with at least this much even exploration."""
    exploration = scorer.exploration
    if exploration.floor >= floor:
        return scorer
    return replace(scorer, exploration=replace(exploration, floor=floor))
