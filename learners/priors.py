"""A prior as interactions that never were, so that any learner can start from it."""

import json

import numpy as np
from numpy.typing import NDArray

from learners.bradley_terry import Prior
from learners.contract import Spec
from learners.errors import PreferenceError
from learners.interactions import Interactions

MAX_ROWS = 1_000
"""Of one arm; what is worth more has fewer rows of more weight each."""

_EDGE = 1e-6


def as_interactions(
    prior: Prior,
    spec: Spec,
    *,
    low: float = 0.0,
    high: float = 1.0,
    contexts: NDArray[np.float64] | None = None,
) -> Interactions:
    """Interactions that tell a learner of ``spec`` what the prior says, for it to learn first.

    An arm of the mean p that is worth n rewards gets n rows, n · p of them of the reward ``high``
    and the rest of ``low`` (one between both, so that the mean is p), all of one weight, which
    together make its count. So real rewards overrule the prior as soon as they outnumber it. Each
    row is a probe: served for certain, whatever else was eligible. Arms that the prior does not
    know, or knows nothing of, get no row.

    Args:
        prior: of :func:`learners.bradley_terry.prior`, say; its arms in any order.
        spec: the learner's.
        low: the reward that counts as a failure.
        high: the reward that counts as a success.
        contexts: encoded, shape ``(c, d)``: an arm's rows take them in turn, so give one of each
            domain where there are domains. If not given, all are of the empty context.

    Raises:
        PreferenceError: ``low`` is not below ``high``, or there are no contexts.
    """
    if not low < high:
        raise PreferenceError(f"low {low}, high {high}: give two rewards, the lower first")
    if contexts is None:
        contexts = np.eye(1, spec.schema.dimension)
    if not len(contexts):
        raise PreferenceError("contexts has no row: leave it out, or give one")
    known = dict(zip(prior.arms, zip(prior.mean, prior.count, strict=True), strict=True))
    actions, rewards, weights, turns = [], [], [], []
    for i, arm in enumerate(spec.arms):
        mean, count = known.get(arm, (0.0, 0.0))
        if count > 0:
            rows = min(int(np.ceil(count)), MAX_ROWS)
            actions.append(np.full(rows, i, dtype=np.int64))
            rewards.append(np.clip(mean * rows - np.arange(rows), 0.0, 1.0))
            weights.append(np.full(rows, count / rows))
            turns.append(np.arange(rows) % len(contexts))
    n = sum(map(len, actions))
    return Interactions(
        arms=spec.arms,
        x=contexts[np.concatenate([np.zeros(0, np.int64), *turns])],
        eligible=np.ones((n, len(spec.arms)), dtype=np.bool_),
        action=np.concatenate([np.zeros(0, np.int64), *actions]),
        propensity=np.ones(n),
        reward=low + (high - low) * np.concatenate([np.zeros(0), *rewards]),
        weight=np.concatenate([np.zeros(0), *weights]),
    )


def as_seeds(prior: Prior) -> str:
    """The prior means as ``beta_thompson`` takes them in its parameter ``seeds``.

    All arms then count for its one ``prior_strength``: where the counts differ much, give
    :func:`as_interactions` instead.
    """
    told = zip(prior.arms, prior.mean.tolist(), prior.count.tolist(), strict=True)
    seeds = {arm: min(max(mean, _EDGE), 1 - _EDGE) for arm, mean, count in told if count > 0}
    return json.dumps(seeds, sort_keys=True)
