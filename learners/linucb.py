"""LinUCB: a ridge regression an arm, with an upper-confidence bonus.

The paper is Li et al. 2010 (arXiv:1003.0146). Its use in routing is GreenServ's (Ziller et al.
2026, arXiv:2601.17551), whose context (task, semantic cluster, complexity) is a schema here and
whose reward, (1 - λ) · accuracy + λ · (1 - energy), a reward function. The state is each arm's
sufficient statistics (:mod:`learners.ridge`), so learning is one matrix product, any order of the
log gives the same state, and several workers' states merge. Beyond the paper:

* rewards are centred on their mean, so an arm without data is average and not worth 0;
* arms share a common regression, and each arm's own is shrunk to that (``pooling``), so that what
  all arms find hard is learnt once;
* the ridge penalty is the one of the largest marginal likelihood (``ridge=0``);
* with ``half_life`` older interactions fade, so an arm that changed is learnt anew and one that is
  not served grows uncertain (Russac et al. 2019, arXiv:1909.09146). The order of the log then
  matters.
"""

from learners import ridge_state
from learners.contract import Params, Promise, Spec
from learners.interactions import Interactions
from learners.ridge import RIDGE_LIMITS, RIDGE_PARAMS, Pooled, check_pooling
from learners.ridge_state import State
from learners.schedule import EXPLORATION_PARAMS, checked_params, explore
from learners.scorers.linear import Linear

NAME = "linucb"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    **RIDGE_PARAMS,
    "exploration": "greedy",
    "alpha": 0.5,
    "pooling": 0.1,
}
"""``alpha``: the bonus, in standard deviations of reward; 0 leaves a plain linear scorer.
``pooling``: penalty on the shared weights, as a part of the arms' own; 0 shares nothing."""

PROMISES: frozenset[Promise] = frozenset({"batch", "order"})
"""``order`` while ``half_life`` is 0, as it is by default."""


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the statistics would be too large.
    """
    least = {"alpha": 0.0, "pooling": 0.0, **RIDGE_LIMITS}
    params = checked_params(NAME, PARAMS, spec.params, least)
    check_pooling(NAME, params)
    return ridge_state.empty(spec, params)


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's statistics."""
    return ridge_state.learn(state, interactions)


merge = ridge_state.merge


def freeze(state: State) -> Linear:
    """The regression's weights, with the bonus' inverse matrices where ``alpha`` is above 0."""
    mean, scale = state.moments.mean, state.moments.scale
    best = Pooled.of(state.params).fit(state.statistics, mean, scale)
    weights = best.weights.copy()
    weights[:, 0] += mean
    alpha = float(state.params["alpha"]) * scale
    return Linear(
        arms=state.spec.arms,
        weights=weights,
        exploration=explore(state.params, state.moments),
        inverse=best.factor.inverse() if alpha > 0 else None,
        alpha=alpha,
    )


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    return ridge_state.rearm(state, init(spec))


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return ridge_state.snapshot(NAME, state)


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    return ridge_state.restore(NAME, init(spec), data)
