"""Scores → probabilities → draw. Every probability that is ever logged comes from here."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError

ExplorationKind = Literal["greedy", "squarecb", "softmax", "uniform", "votes"]
KINDS = get_args(ExplorationKind)
_TIE = 1e-12


@dataclass(frozen=True, slots=True)
class Exploration:
    """How a policy spreads its choice over the eligible arms.

    * ``greedy``: all mass on the best score, ties split evenly.
    * ``squarecb``: inverse gap weighting with ``gamma`` (Foster & Rakhlin, arXiv:2002.04926).
    * ``softmax``: proportional to ``exp(score / temperature)``.
    * ``uniform``: every eligible arm alike.
    * ``votes``: an arm's share of the votes of an ensemble's members; for ensembles only.

    ``floor`` is mixed in evenly afterwards: with n eligible arms each has at least ``floor / n``.
    """

    kind: ExplorationKind = "greedy"
    floor: float = 0.0
    gamma: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what gives no distribution."""
        if self.kind not in KINDS:
            raise SpecError(f"exploration {self.kind!r} is none of {', '.join(KINDS)}")
        if not 0.0 <= self.floor <= 1.0:
            raise SpecError(f"exploration floor {self.floor} is outside [0, 1]")
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise SpecError(f"exploration gamma {self.gamma} must be finite and at least 0")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SpecError(f"exploration temperature {self.temperature} must be above 0")

    def as_json(self) -> dict[str, Any]:
        """Plain form for a bundle."""
        return {
            "kind": self.kind,
            "floor": self.floor,
            "gamma": self.gamma,
            "temperature": self.temperature,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Exploration":
        """The exploration that :meth:`as_json` wrote."""
        return cls(
            cast("ExplorationKind", row["kind"]),
            float(row.get("floor", 0.0)),
            float(row.get("gamma", 0.0)),
            float(row.get("temperature", 1.0)),
        )


def probabilities(
    scores: NDArray[np.float64], eligible: NDArray[np.bool_], exploration: Exploration
) -> NDArray[np.float64]:
    """The distribution over arms for each row of scores.

    Args:
        scores: shape ``(n, K)``, higher is better.
        eligible: shape ``(n, K)``; every row must have at least one True.
        exploration: how to spread.

    Returns:
        Shape ``(n, K)``; rows sum to 1, exactly 0 where not eligible.

    Raises:
        SpecError: A row has no eligible arm, a score is not finite, or scores are to vote.
    """
    if exploration.kind == "votes":
        raise SpecError("exploration 'votes' needs an ensemble: give squarecb, softmax or greedy")
    count = eligible.sum(axis=1, keepdims=True)
    if not count.all():
        raise SpecError("no arm is eligible: exclude fewer, or add arms to the pool")
    masked = np.where(eligible, scores, -np.inf)
    if not np.isfinite(scores[eligible]).all():
        raise SpecError("a score is NaN or infinite: the context or the weights are too large")
    if exploration.kind == "uniform":
        return np.where(eligible, 1.0 / count, 0.0)
    best = masked.max(axis=1, keepdims=True)
    if exploration.kind == "softmax":
        weight = np.where(eligible, np.exp((masked - best) / exploration.temperature), 0.0)
        spread = weight / weight.sum(axis=1, keepdims=True)
    elif exploration.kind == "squarecb":
        spread = _squarecb(masked, best, count, exploration.gamma)
    else:
        top = masked >= best - _TIE
        spread = top / top.sum(axis=1, keepdims=True)
    return floored(spread, eligible, exploration.floor)


def floored(
    spread: NDArray[np.float64], eligible: NDArray[np.bool_], floor: float
) -> NDArray[np.float64]:
    """A distribution ``(n, K)`` with ``floor`` of it spread evenly over the eligible arms."""
    count = eligible.sum(axis=1, keepdims=True)
    return np.where(eligible, (1.0 - floor) * spread + floor / count, 0.0)


def _squarecb(
    masked: NDArray[np.float64],
    best: NDArray[np.float64],
    count: NDArray[np.int64],
    gamma: float,
) -> NDArray[np.float64]:
    """1 / (n + γ·gap) for all but the first best arm, which takes the rest."""
    gap = np.where(np.isfinite(masked), best - masked, np.inf)
    with np.errstate(invalid="ignore"):  # 0 · inf for an arm that is not eligible
        spread = np.where(np.isfinite(gap), 1.0 / (count + gamma * gap), 0.0)
    rows = np.arange(len(masked))
    first = masked.argmax(axis=1)
    spread[rows, first] = 0.0
    spread[rows, first] = 1.0 - spread.sum(axis=1)
    return spread


def draw(distribution: NDArray[np.float64], u: float) -> int:
    """The index that ``u`` in [0, 1) falls on; never one of probability 0."""
    cumulative = np.cumsum(distribution)
    index = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(distribution)[-1]))


def unit_interval(*parts: str) -> float:
    """A number in [0, 1) that only the parts decide: the same parts give the same draw."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    # 53 bits are what a float holds: with more the quotient could round up to 1.
    return (int.from_bytes(digest[:7], "big") >> 3) / 2**53
