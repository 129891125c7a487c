"""A gate that only feedback of good quality passes: it sets the interactions' weights.

Every learner heeds weights, so any of them can stand behind the gate (AMRO-S has it before its
trails). It is a pure function of the rows, and a row that is shut out has the weight 0.

*What it may cost.* ``min_weight``, ``unsourced`` and ``min_propensity`` look at what was known
before the reward, so a mean within one context stays right. ``undecided`` looks at the reward
itself: a mean of the rewards that remain is another one, which favours arms that are liked or
disliked over those that are merely fair. Use it where the middle means that a judge could not tell.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from learners.errors import SpecError
from learners.interactions import Interactions


@dataclass(frozen=True, slots=True)
class QualityGate:
    """Which interactions teach, and how much.

    Attributes:
        min_weight: an interaction of less weight (little trust in who graded it) is shut out.
        unsourced: factor of the weight where no one source graded, 0 to 1.
        min_propensity: an interaction that was served with less probability is shut out.
        low: the reward from which on it is undecided.
        high: the reward up to which it is; ``low`` or less: none is.
        undecided: factor of the weight between these two, 0 to 1.
    """

    min_weight: float = 0.0
    unsourced: float = 1.0
    min_propensity: float = 0.0
    low: float = 0.0
    high: float = 0.0
    undecided: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no factor, no probability, or contradicts itself."""
        for name in ("unsourced", "undecided", "min_propensity"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise SpecError(f"{name} is {value}: give a number from 0 to 1")
        if not 0.0 <= self.min_weight < math.inf:
            raise SpecError(f"min_weight is {self.min_weight}: give a finite number of at least 0")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise SpecError(
                f"low {self.low}, high {self.high}: give two finite rewards, the lower first"
            )
        if self.undecided < 1.0 and self.low == self.high:
            raise SpecError(
                f"undecided is {self.undecided}: give low and high, which it is between"
            )

    def passed(self, interactions: Interactions) -> Interactions:
        """The same interactions with the weights that they have behind the gate."""
        weight = interactions.weight * np.where(interactions.source < 0, self.unsourced, 1.0)
        between = (interactions.reward > self.low) & (interactions.reward < self.high)
        weight = weight * np.where(between, self.undecided, 1.0)
        shut = (interactions.weight < self.min_weight) | (
            interactions.propensity < self.min_propensity
        )
        return replace(interactions, weight=np.where(shut, 0.0, weight))
