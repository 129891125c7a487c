"""What a prediction is worth: calibrated chances of success, with a lower bound for each.

A learner's score may rank well and still not be a chance. :func:`isotonic` and :func:`platt` learn,
from rows that the scores were not trained on, what was really earned at each score. Both give a
:class:`Curve`, which is plain numbers and so travels in a bundle.

*Isotonic* assumes only that a higher score is no worse: equal-sized bins of rows, pooled until they
rise (pool adjacent violators: Ayer et al. 1955; Zadrozny & Elkan 2002). Scores within a block are
worth the same, so ranks are lost there. *Platt* fits a sigmoid (Platt 1999), which two numbers
describe: it needs fewer rows, keeps the ranks, and is wrong where the truth is no sigmoid.

*Bounds* hold for one value at a time, one-sided. The isotonic one is Wilson's (1927) of the block's
rows: of the block's mean, so what is true at its lower end may be less. It is wide rather than
narrow for outcomes between 0 and 1, as those vary less than a coin. Platt's is normal on the scale
of the logit, from the inverse curvature. Rows of unequal weight count as Kish's effective number.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from learners.errors import CalibrationError

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Chance that a bound is below the truth."""
LEAST = 20
"""Rows of a bin before bins are pooled."""

_MAX_BINS = 100
_STEPS = 50
_REACH = 12.0
"""Logits from 0 that a sigmoid's curve reaches: what is beyond is as good as 0 or 1."""
_KNOTS = 385


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What raw scores are worth: linear between b knots, level beyond the first and the last.

    Attributes:
        raw: the knots' scores, rising, shape ``(b,)``.
        value: the calibrated outcome at each, never falling, shape ``(b,)``.
        low: its lower bound, shape ``(b,)``.
    """

    raw: Floats
    value: Floats
    low: Floats

    def __post_init__(self) -> None:
        """Refuse what is no curve."""
        shapes = {self.raw.shape, self.value.shape, self.low.shape}
        if len(shapes) != 1 or self.raw.ndim != 1 or not len(self.raw):
            raise CalibrationError(f"a curve of shapes {sorted(shapes)}: give one of (b,), b ≥ 1")
        if not all(np.isfinite(each).all() for each in (self.raw, self.value, self.low)):
            raise CalibrationError("a curve holds NaN or infinity: calibrate again")
        if (np.diff(self.raw) <= 0).any() or (np.diff(self.value) < 0).any():
            raise CalibrationError("a curve's raw scores must rise and its values not fall")

    def values(self, raw: Floats) -> Floats:
        """The calibrated outcome of each raw score, in any shape."""
        return np.asarray(np.interp(raw, self.raw, self.value), dtype=np.float64)

    def lows(self, raw: Floats) -> Floats:
        """The lower bound of each raw score's outcome, in any shape."""
        return np.asarray(np.interp(raw, self.raw, self.low), dtype=np.float64)


def isotonic(
    raw: Floats,
    outcome: Floats,
    weight: Floats | None = None,
    *,
    level: float = LEVEL,
    least: int = LEAST,
    span: tuple[float, float] = (0.0, 1.0),
) -> Curve:
    """The rising step function that fits held-out outcomes best.

    Args:
        raw: scores, shape ``(n,)``.
        outcome: what was earned, within ``span``, shape ``(n,)``.
        weight: of each row, at least 0, shape ``(n,)``; 1 if not given.
        level: chance, one-sided, that a block's bound is below its truth.
        least: rows of a bin; equal scores are never parted.
        span: the least and the greatest outcome that can be.

    Raises:
        CalibrationError: There are no rows, or a number is out of range.
    """
    rows = _Rows.of(raw, outcome, weight, span)
    z = _quantile(level)
    if least < 1:
        raise CalibrationError(f"least is {least}: give at least 1 row a bin")
    start = _bins(rows.raw, least)
    total = np.add.reduceat(rows.weight, start)
    earned = np.add.reduceat(rows.weight * rows.outcome, start)
    squares = np.add.reduceat(np.square(rows.weight), start)
    block = pools(earned / total, total)
    first = np.flatnonzero(np.diff(block, prepend=-1))
    mass = np.add.reduceat(total, first)
    value = np.add.reduceat(earned, first) / mass
    count = mass * mass / np.add.reduceat(squares, first)
    low = wilson_low(value, count, z)
    left = rows.raw[start[first]]
    right = rows.raw[np.append(start[first][1:], len(rows.raw)) - 1]
    both = np.stack([left, right], axis=1).ravel()
    return rows.curve(both, np.repeat(np.maximum.accumulate(value), 2), np.repeat(low, 2))


def platt(
    raw: Floats,
    outcome: Floats,
    weight: Floats | None = None,
    *,
    level: float = LEVEL,
    trust: float = 0.0,
    span: tuple[float, float] = (0.0, 1.0),
) -> Curve:
    """The sigmoid of the scores that fits held-out outcomes best; it never falls.

    Args:
        raw: scores, shape ``(n,)``.
        outcome: what was earned, within ``span``, shape ``(n,)``.
        weight: of each row, at least 0, shape ``(n,)``; 1 if not given.
        level: chance, one-sided, that a bound is below the truth.
        trust: how firmly scores that are in the outcome's unit are believed to be right already:
            ``1 / trust`` is the prior variance of the slope as a multiple of the identity's.
            0: nothing is believed, the scores may be in any unit.
        span: the least and the greatest outcome that can be.

    Raises:
        CalibrationError: There are no rows, or a number is out of range.
    """
    rows = _Rows.of(raw, outcome, weight, span)
    z = _quantile(level)
    if not 0.0 <= trust < math.inf:
        raise CalibrationError(f"trust is {trust}: give a finite number of at least 0")
    weight = rows.weight * (rows.weight.sum() / np.square(rows.weight).sum())
    n = float(weight.sum())
    # Platt's targets: one more success and one more failure, so that none is certain.
    good = float(weight @ rows.outcome)
    target = rows.outcome * (good + 1) / (good + 2) + (1 - rows.outcome) / (n - good + 2)
    centre = float(weight @ rows.raw) / n
    mean = float(weight @ target) / n
    # In this unit the identity, in the outcome's unit, has slope 1 at the mean.
    unit = mean * (1 - mean) * rows.width if trust > 0 else _spread(rows.raw, weight, centre)
    x = np.stack([np.ones(len(rows.raw)), (rows.raw - centre) / unit], axis=1)
    fitted, inverse = _sigmoid(x, target, weight, trust)
    if fitted[1] <= 0:  # a better score is never worth less: the scores tell nothing
        fitted, inverse = _sigmoid(x[:, :1], target, weight, 0.0)
        logit = fitted[0] - z * math.sqrt(inverse[0, 0])
        return rows.curve(np.array([centre]), _logistic(fitted), _logistic(np.array([logit])))
    logits = np.linspace(-_REACH, _REACH, _KNOTS)
    at = (logits - fitted[0]) / fitted[1]
    variance = inverse[0, 0] + 2 * at * inverse[0, 1] + at * at * inverse[1, 1]
    low = logits - z * np.sqrt(np.maximum(variance, 0.0))
    return rows.curve(centre + unit * at, _logistic(logits), _logistic(low))


def wilson_low(mean: Floats, count: Floats, z: float) -> Floats:
    """Wilson's lower bound of a share of ``count`` trials, ``z`` standard deviations down."""
    wide = z * z / count
    centre = mean + wide / 2
    half = z * np.sqrt(np.maximum(mean * (1 - mean), 0.0) / count + wide / (4 * count))
    return np.asarray(np.clip((centre - half) / (1 + wide), 0.0, 1.0), dtype=np.float64)


def pools(values: Floats, weight: Floats) -> NDArray[np.int64]:
    """The block of each value, numbered from 0, when falling neighbours are pooled, ``(b,)``.

    The blocks' weighted means rise: they are the isotonic regression (Ayer et al. 1955).
    """
    means: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for mean, mass in zip(values.tolist(), weight.tolist(), strict=True):
        at, heavy, size = mean, mass, 1
        while means and means[-1] >= at:
            more = masses.pop()
            at = (at * heavy + means.pop() * more) / (heavy + more)
            heavy += more
            size += sizes.pop()
        means.append(at)
        masses.append(heavy)
        sizes.append(size)
    return np.repeat(np.arange(len(sizes)), sizes)


def calibration_error(
    predicted: Floats, outcome: Floats, weight: Floats | None = None, *, bins: int = 10
) -> float:
    """Expected calibration error: the mean gap of prediction and outcome over equal-sized bins."""
    each = np.ones(len(predicted)) if weight is None else weight
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(float(each[part] @ (predicted[part] - outcome[part]))) for part in parts]
    return sum(gaps) / float(each.sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows that weigh something, by rising score; outcomes from 0 to 1."""

    raw: Floats
    outcome: Floats
    weight: Floats
    floor: float
    width: float

    @classmethod
    def of(
        cls, raw: Floats, outcome: Floats, weight: Floats | None, span: tuple[float, float]
    ) -> "_Rows":
        floor, width = span[0], span[1] - span[0]
        if not (math.isfinite(floor) and math.isfinite(width) and width > 0):
            raise CalibrationError(f"span {span}: give two finite numbers, the lower first")
        weight = np.ones(len(raw)) if weight is None else weight
        if not raw.ndim == 1 or not raw.shape == outcome.shape == weight.shape:
            raise CalibrationError(
                f"raw {raw.shape}, outcome {outcome.shape}, weight {weight.shape}: give (n,) each"
            )
        checks = {
            "raw": (raw, np.isfinite(raw)),
            "outcome": (outcome, (outcome >= span[0]) & (outcome <= span[1])),
            "weight": (weight, (weight >= 0) & np.isfinite(weight)),
        }
        for name, (column, good) in checks.items():
            if not good.all():
                row = int(np.argmin(good))
                raise CalibrationError(f"row {row}: {name}={column[row]} is out of range")
        kept = np.flatnonzero(weight > 0)
        if not len(kept):
            raise CalibrationError("no rows to calibrate on: hold some back from training")
        order = kept[np.argsort(raw[kept], kind="stable")]
        return cls(raw[order], (outcome[order] - floor) / width, weight[order], floor, width)

    def curve(self, raw: Floats, value: Floats, low: Floats) -> Curve:
        """The curve in the outcome's own unit, without knots that rounding has made one."""
        apart = np.append(True, np.diff(raw) > 0)
        value, low = (self.floor + self.width * each[apart] for each in (value, low))
        return Curve(raw[apart], value, low)


def _bins(raw: Floats, least: int) -> NDArray[np.int64]:
    """Where bins of about equal size begin, in sorted scores; equal scores stay together."""
    number = len(raw) if least == 1 else min(max(len(raw) // least, 1), _MAX_BINS)
    even = (np.arange(number) * len(raw)) // number
    return np.unique(np.searchsorted(raw, raw[even], side="left")).astype(np.int64)


def _sigmoid(x: Floats, target: Floats, weight: Floats, trust: float) -> tuple[Floats, Floats]:
    """Newton's method on the penalised log-likelihood: the coefficients, and their covariance."""
    penalty = np.zeros(x.shape[1])
    prior = np.zeros(x.shape[1])
    if x.shape[1] > 1:
        # A little, so that outcomes that the scores part perfectly have a finite slope.
        penalty[1], prior[1] = max(trust, 1e-3), float(trust > 0)
    mean = float(weight @ target / weight.sum())
    theta = prior.copy()
    theta[0] = math.log(mean / (1 - mean))

    def lost(at: Floats) -> float:
        logit = x @ at
        fit = weight @ (np.logaddexp(0.0, logit) - target * logit)
        return float(fit + penalty @ np.square(at - prior) / 2)

    for _ in range(_STEPS):
        chance = _logistic(x @ theta)
        slope = x.T @ (weight * (target - chance)) - penalty * (theta - prior)
        if np.abs(slope).max() < 1e-9 * weight.sum():
            break
        step = np.linalg.solve(_curvature(x, weight, chance, penalty), slope)
        now = lost(theta)
        while lost(theta + step) > now + 1e-12 * abs(now) and np.abs(step).max() > 1e-12:
            step = step / 2
        theta = theta + step
    inverse = np.linalg.inv(_curvature(x, weight, _logistic(x @ theta), penalty))
    return theta, np.asarray(inverse, dtype=np.float64)


def _curvature(x: Floats, weight: Floats, chance: Floats, penalty: Floats) -> Floats:
    found: Floats = x.T @ (x * (weight * chance * (1 - chance))[:, None]) + np.diag(penalty)
    return found + 1e-12 * np.eye(len(penalty))


def _spread(raw: Floats, weight: Floats, centre: float) -> float:
    found = math.sqrt(float(weight @ np.square(raw - centre)) / float(weight.sum()))
    return found if found > 0 else 1.0


def _logistic(logit: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(logit / 2.0)), dtype=np.float64)


def _quantile(level: float) -> float:
    if not 0.5 <= level < 1.0:
        raise CalibrationError(f"level is {level}: give a number from 0.5 below 1")
    return NormalDist().inv_cdf(level)
