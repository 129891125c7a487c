"""Ratings of arms from elsewhere, made interactions that a learner learns before the log.

A rating may be of any unit (Elo points, a leaderboard's strength, a benchmark's score): higher is
better, and what it means for this reward the log says. The rewards of the arms are regressed on
their ratings, each arm's mean off the line by noise of its own and by what ratings do not tell (Fay
& Herriot 1979, "Estimates of income for small places"; that variance by moments, as DerSimonian &
Laird 1986). What the line expects of an arm is worth the more interactions, the closer the others
stand to it.

An arm's expectation comes from the *other* arms' rewards alone, so none of the arm's own is counted
twice. So ratings say something of an arm only where at least :data:`LEAST_OTHERS` other rated arms
have rewards; where better ratings do not go with better rewards, they say nothing at all.

Measured on ``llmrouter9`` (9 arms, 20 uniform logs, four learners): with the right ratings a frozen
policy's score on fresh queries is higher by .021 to .026 after 150 interactions (standard error
.013) and by .002 to .008 after 500 (.001 to .006). Random ones move it by .005 (.005) at most,
reversed ones not at all.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from learners.arm_sums import ArmSums
from learners.contract import MAX_ARMS, Spec
from learners.errors import SpecError
from learners.interactions import Interactions

LEAST_OTHERS = 3
"""Other rated arms with rewards that an expectation needs: a line and how far they are off it."""
MAX_COUNT = 1_000.0
MAX_RATING = 1e9
MAX_ROWS = 10_000
"""Of all arms; what is worth more has rows of more weight each."""
TAKES_NONE = frozenset(
    {"always_large", "always_small", "best_fixed", "fqi", "pheromone", "reinforce", "uniform"}
)
"""Baselines and references, which stand for what is known without it; learners of episodes; and
``pheromone``, whose trails begin in each domain anew."""

_MAX_IMPORTANCE = 5.0
_TINY = 1e-300

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of arms before they have served.

    Attributes:
        ratings: by arm, in any one unit, higher is better; none: there is no prior.
        count: interactions that an arm's rating is worth, at most; the log may say fewer.
    """

    ratings: Mapping[str, float] = field(default_factory=dict)
    count: float = 20.0

    def __post_init__(self) -> None:
        """Refuse ratings that are no numbers or too few, and a count that is none."""
        for _, fault in self.faults():
            raise SpecError(fault)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Fields that make no sense, each with a sentence that begins with its name."""
        if not 0.0 < self.count <= MAX_COUNT:
            yield "count", f"count is {self.count}: give more than 0, at most {MAX_COUNT:,g}"
        for arm, rating in self.ratings.items():
            if isinstance(rating, bool) or not abs(rating) <= MAX_RATING:
                told = f"ratings of {arm!r} is {rating}: give a number of at most {MAX_RATING:g}"
                yield "ratings", f"{told} either way"
        if self.ratings and not LEAST_OTHERS < len(self.ratings) <= MAX_ARMS:
            told = f"ratings are of {len(self.ratings)} arms: give {LEAST_OTHERS + 1} to"
            yield (
                "ratings",
                f"{told} {MAX_ARMS:,}, or none; an arm's is weighed by what the others earned",
            )

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self.ratings)


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What ratings say of K arms, once a log has said what ratings are worth.

    Attributes:
        mean: of the reward, shape ``(K,)``; 0 where the count is.
        count: interactions that it is worth, at least 0, shape ``(K,)``.
        variance: of a reward about its arm's mean.
    """

    mean: Floats
    count: Floats
    variance: float


def expected(prior: Prior, log: Interactions, target: Floats | None = None) -> Expected:
    """What the ratings let expect of each arm, by what the other arms earned.

    Args:
        prior: names arms of the log, and maybe others.
        log: n interactions over K arms; importance-weighted, at most fivefold.
        target: what is expected, in place of the reward, shape ``(n,)``.
    """
    k, everywhere = len(log.arms), np.zeros(len(log), dtype=np.int64)
    cells = ArmSums.empty(k, 1).add(log, everywhere, _MAX_IMPORTANCE, reward=target).cells()
    rows, earned = cells.count[:, 0], cells.mean[:, 0]
    rating = np.array([prior.ratings.get(arm, math.nan) for arm in log.arms])
    rated = np.isfinite(rating)
    heard = rated & (rows > 0)
    mean, count = np.zeros(k), np.zeros(k)
    free = float(np.maximum(rows - 1.0, 0.0).sum())
    variance = float(rows @ cells.variance[:, 0]) / free if free > 0 else 0.0
    if variance <= 0:
        return Expected(mean, count, 0.0)
    for arm in np.flatnonzero(rated).tolist():
        others = heard.copy()
        others[arm] = False
        if others.sum() < LEAST_OTHERS:
            continue
        found = _on_the_line(rating[others], earned[others], variance / rows[others], rating[arm])
        if found is not None:
            mean[arm] = found[0]
            count[arm] = min(prior.count, variance / found[1])
    return Expected(mean, count, variance)


def _on_the_line(
    rating: Floats, earned: Floats, noise: Floats, at: float
) -> tuple[float, float] | None:
    """Mean and variance of what an arm of the rating ``at`` earns; None where no line rises.

    What ratings do not tell is taken a standard error above what the misfit says, and the line must
    rise by more than its own: a short log would else be read as if it were sure.

    Args:
        rating: of the other arms, shape ``(m,)``.
        earned: their mean rewards.
        noise: the variances of these means.
        at: the arm's own rating.
    """
    middle, spread = float(rating.mean()), float(rating.std())
    if spread <= 1e-12 * max(1.0, float(np.abs(rating).max())):
        return None
    line = np.column_stack([np.ones(len(rating)), (rating - middle) / spread])
    weight = 1.0 / noise
    weights, covariance = _regressed(line, earned, weight)
    free = len(rating) - 2
    misfit = float(weight @ np.square(earned - line @ weights)) - free + math.sqrt(2.0 * free)
    slack = float(weight.sum() - np.trace(covariance @ (line.T * np.square(weight)) @ line))
    untold = max(0.0, misfit / slack) if slack > 0 else 0.0
    weights, covariance = _regressed(line, earned, 1.0 / (noise + untold))
    if weights[1] <= math.sqrt(covariance[1, 1]):
        return None
    own = np.array([1.0, (at - middle) / spread])
    return float(own @ weights), untold + float(own @ covariance @ own)


def _regressed(line: Floats, earned: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted least squares: the weights ``(2,)`` and their covariance ``(2, 2)``."""
    covariance: Floats = np.linalg.inv((line.T * weight) @ line).astype(np.float64)
    return covariance @ (line.T @ (weight * earned)), covariance


def as_interactions(prior: Prior, spec: Spec, log: Interactions) -> Interactions:
    """Interactions that tell a learner what the ratings say, for it to learn before ``log``.

    An arm that is worth c interactions gets rows of the weight c in all, in pairs: one reward as
    far above the mean as the other is below, by the log's own deviation where its range allows it.
    All are of the empty context: in contexts of the log they would say that the arm is alike in all
    of them. Rows count as probes: served for certain, whatever else was eligible.

    Where the log tells the reward's parts apart, ratings speak of one that raises the reward: that
    which varies most from one of an arm's answers to another, which few rows tell least of. The
    others, a cost say, are the arm's usual ones.

    Args:
        prior: what is known.
        spec: the learner's.
        log: what it will learn then.
    """
    mix, part = np.asarray(spec.reading.mix), _spoken_of(spec, log)
    target = log.reward if part is None else log.parts[:, part] * mix[part]
    told = expected(prior, log, target)
    arms = np.flatnonzero(told.count > 0)
    pairs = np.zeros(len(spec.arms), dtype=np.int64)
    most = max(1, MAX_ROWS // (2 * max(1, len(arms))))
    pairs[arms] = np.minimum(np.ceil(told.count[arms] / 2), most).astype(np.int64)
    # Arm after arm, again and again, so that no arm comes last.
    turn = [np.flatnonzero(pairs > i) for i in range(int(pairs.max(initial=0)))]
    action = np.repeat(np.concatenate([np.zeros(0, np.int64), *turn]), 2)
    n = len(action)
    values = _around(told, target[log.weight > 0], action)
    parts = values[:, None] if part is None else _usual(log, action)
    if part is not None:
        parts[:, part] = values / mix[part]
    return Interactions(
        arms=spec.arms,
        x=np.tile(np.eye(1, spec.schema.dimension), (n, 1)),
        eligible=np.ones((n, len(spec.arms)), dtype=np.bool_),
        action=action,
        propensity=np.ones(n),
        reward=values if part is None else parts @ mix + spec.reading.offset,
        weight=told.count[action] / np.maximum(2 * pairs[action], 1),
        at=np.full(n, log.at.min(initial=math.inf) if n else 0.0),
        parts=parts,
    )


def _spoken_of(spec: Spec, log: Interactions) -> int | None:
    """The raising part that varies most within arms; None where the log tells no parts apart.

    Of parts that all lower the reward, that which varies most.
    """
    mix = np.asarray(spec.reading.mix)
    if not len(log) or log.parts.shape[1] != len(mix) or not mix.any():
        return None
    if not np.allclose(log.parts @ mix + spec.reading.offset, log.reward):
        return None
    squares = log.weight @ np.square(log.parts - _usual(log, log.action))
    raising = mix > 0 if (mix > 0).any() else mix < 0
    return int(np.argmax(np.where(raising, np.square(mix) * squares, -1.0)))


def _around(told: Expected, seen: Floats, action: NDArray[np.int64]) -> Floats:
    """Above and below each row's arm's mean in turn, within the range of what was seen."""
    if not len(action):
        return np.zeros(0)
    low, high = float(seen.min()), float(seen.max())
    mean = np.clip(told.mean[action], low, high)
    away = np.minimum(math.sqrt(told.variance), np.minimum(high - mean, mean - low))
    return np.asarray(mean + np.where(np.arange(len(action)) % 2 == 0, away, -away))


def _usual(log: Interactions, action: NDArray[np.int64]) -> Floats:
    """Each row's arm's mean parts ``(n, m)``; those of all where the arm has not served."""
    found = np.zeros((len(action), log.parts.shape[1]))
    for arm in np.unique(action).tolist():
        own = log.weight * (log.action == arm)
        own = own if own.sum() > 0 else log.weight
        found[action == arm] = own @ log.parts / max(float(own.sum()), _TINY)
    return found
