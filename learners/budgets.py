"""What no call of an arm costs more than, and the budget mask over a scorer that is made of it.

An arm's bound is its card's price of the longest context plus ``max_tokens`` of answer, which is
certain if upstreams are called with that limit; without it, the dearest call in the log times
``cost_margin``, which is a guess. An arm with neither has no bound and is not served while one
that has is eligible, so give ``max_tokens`` where arms join.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.contract import Params, Spec
from learners.episodes import BUDGET, SPENT, TURN, Steps, columns_of, number_of
from learners.errors import SpecError
from learners.features import Feature
from learners.records import Card
from learners.scorers.base import Scorer
from learners.scorers.budgeted import MAX_TURNS, Budgeted

BUDGET_PARAMS: Params = {
    "max_turns": 0,
    "max_tokens": 0,
    "cost_margin": 1.5,
    "cost_unit_usd": 1.0,
}
"""``max_turns``: the longest episode; 0 for no budget mask. ``max_tokens``: the longest answer, for
bounds from cards; 0 for none. ``cost_margin``: on the dearest call seen. ``cost_unit_usd``: what 1
of the reward's part ``cost_usd`` is, if the reward declares a scale."""
LEAST: Mapping[str, float] = {
    "max_turns": 0.0,
    "max_tokens": 0.0,
    "cost_margin": 1.0,
    "cost_unit_usd": 1e-9,
}
UNSEEN = -1.0
"""The dearest call of an arm that has none."""
_COST = "cost_usd"
_NUMBERS = (TURN, SPENT, BUDGET)


def check_budget(learner: str, spec: Spec, params: Mapping[str, Any]) -> None:
    """Refuse a mask over contexts that do not tell what it reads.

    Raises:
        SpecError: The schema lacks a number, or ``max_turns`` is too large.
    """
    turns = int(params["max_turns"])
    if turns > MAX_TURNS:
        raise SpecError(f"{learner}.max_turns is {turns}: give at most {MAX_TURNS}")
    numbers = [feature.name for feature in spec.schema.features if feature.kind == "number"]
    missing = [name for name in _NUMBERS if turns and name not in numbers]
    if missing:
        raise SpecError(f"{learner}.max_turns needs the number {missing[0]!r} among the features")


def dearest(
    before: NDArray[np.float64], steps: Steps, spec: Spec, unit_usd: float
) -> NDArray[np.float64]:
    """The dearest call of each arm, USD, shape ``(K,)``; :data:`UNSEEN` where there is none.

    Read from the reward's part ``cost_usd``, and from what the next step says was spent.
    """
    log, found = steps.log, before.copy()
    counts = log.weight > 0
    names = spec.reading.names
    if _COST in names and log.parts.shape[1] == len(names) > 1:
        costs = log.parts[:, names.index(_COST)] * unit_usd
        np.maximum.at(found, log.action[counts], costs[counts])
    spent = number_of(spec.schema, SPENT, log.x)
    if spent is not None and len(log):
        rows = np.flatnonzero(~steps.last & counts)
        np.maximum.at(found, log.action[rows], spent[rows + 1] - spent[rows])
    return found


def bounds(spec: Spec, params: Mapping[str, Any], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """What no call of each arm costs more than, USD, shape ``(K,)``; infinity if unknown."""
    by_card = np.array([_by_card(card, int(params["max_tokens"])) for card in spec.cards])
    by_log = np.where(seen >= 0, seen * float(params["cost_margin"]), math.inf)
    # A call dearer than the card allows refutes the card.
    return np.where(np.isfinite(by_card), np.maximum(by_card, seen), by_log)


def _by_card(card: Card, max_tokens: int) -> float:
    priced = card.usd_per_mtok_in > 0 or card.usd_per_mtok_out > 0
    if not (priced and max_tokens and card.context_tokens):
        return math.inf
    most = card.usd_per_mtok_in * card.context_tokens + card.usd_per_mtok_out * max_tokens
    return most / 1e6


def masked(
    scorer: Scorer, spec: Spec, params: Mapping[str, Any], seen: NDArray[np.float64]
) -> Scorer:
    """The scorer within each episode's budget, if ``max_turns`` asks for it."""
    turns = int(params["max_turns"])
    if not turns:
        return scorer
    of: dict[str, Feature] = {feature.name: feature for feature in spec.schema.features}
    reading = np.array(
        [[columns_of(spec.schema, name).start, of[name].mean, of[name].scale] for name in _NUMBERS]
    )
    return Budgeted(
        arms=scorer.arms,
        exploration=scorer.exploration,
        inner=scorer,
        bounds=bounds(spec, params, seen),
        reading=reading,
        max_turns=turns,
    )
