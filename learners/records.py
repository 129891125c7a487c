"""The nouns that every folder speaks: arms and their cards, contexts, interactions, estimates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from learners.errors import InteractionError

ContextValue = float | int | bool | str | Sequence[float]
Context = Mapping[str, ContextValue]
"""What is known at the time of the choice: features by name, never the raw prompt."""

MAX_ABS_REWARD = 1e6
MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of an arm before it has served: prices, limits, tags.

    Prices are in USD per million tokens; ``context_tokens`` is the longest input plus output.
    The energy that a token takes is in joules, None where nobody knows it.
    """

    usd_per_mtok_in: float = 0.0
    usd_per_mtok_out: float = 0.0
    context_tokens: int | None = None
    tags: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    joules_per_token_in: float | None = None
    joules_per_token_out: float | None = None

    def __post_init__(self) -> None:
        """Refuse prices and energies that are negative or not finite."""
        for what, of in (("price", "usd_per_mtok"), ("energy", "joules_per_token")):
            for name in (f"{of}_in", f"{of}_out"):
                value = getattr(self, name)
                if value is not None and not 0 <= value < math.inf:
                    raise ValueError(f"{name} is {value}: give a finite {what} of at least 0")


@dataclass(frozen=True, slots=True)
class Arm:
    """One model behind one endpoint.

    ``endpoint`` is the base URL of an OpenAI-compatible API (``…/v1``); ``api_key_env`` names the
    edge's environment variable that holds the upstream's key, never the key itself.
    """

    name: str
    model: str
    endpoint: str
    card: Card = field(default_factory=Card)
    api_key_env: str | None = None


@dataclass(frozen=True, slots=True)
class Interaction:
    """A decision joined with its reward: the only thing that a learner eats.

    ``propensity`` is the probability with which ``action`` was *served*, in (0, 1].
    ``position`` rises by one with each interaction of a policy's log. ``values`` are the metrics
    that the reward was made of. Rows of one ``episode_id`` or ``session_id`` are not independent of
    each other. ``source`` is who graded it, if it was one source; ``said`` holds by metric what
    each source said of it, in a number.
    """

    decision_id: str
    at: datetime
    context: Context
    eligible: tuple[str, ...]
    action: str
    propensity: float
    reward: float
    weight: float = 1.0
    position: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    episode_id: str | None = None
    source: str | None = None
    said: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    session_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what would poison a learner."""
        if self.at.tzinfo is None:
            raise InteractionError(f"{self.decision_id}: at={self.at} has no time zone")
        if not 0.0 < self.propensity <= 1.0:
            raise InteractionError(
                f"{self.decision_id}: propensity={self.propensity} is outside (0, 1]"
            )
        if not abs(self.reward) <= MAX_ABS_REWARD:
            raise InteractionError(
                f"{self.decision_id}: reward={self.reward} is not finite "
                f"or exceeds {MAX_ABS_REWARD:g}"
            )
        if not 0.0 <= self.weight <= MAX_ABS_REWARD:
            raise InteractionError(f"{self.decision_id}: weight={self.weight} is negative or huge")
        if self.action not in self.eligible:
            raise InteractionError(
                f"{self.decision_id}: action {self.action!r} is not among the eligible arms "
                f"{list(self.eligible)}"
            )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval, from off-policy evaluation or an experiment."""

    estimator: str
    value: float
    low: float
    high: float
    standard_error: float
    n: int
    effective_n: float
    level: float = 0.95

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for a verdict, an API answer or a page."""
        return {
            "estimator": self.estimator,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "standard_error": self.standard_error,
            "n": self.n,
            "effective_n": self.effective_n,
            "level": self.level,
        }
