"""Differences of an experiment's variants, and whether they may be believed.

A unit (user, session, request) is drawn to a variant once (:mod:`learners.lineup`); its rows
belong together. All intervals and tests here hold at every look at once, so an experiment may be
watched and stopped at any time.

* Difference of means over rows, units as clusters, by the normal mixture of
  :mod:`learners.sequences`. Its clock is the information that the rows hold (rows times the design
  effect), which grows with every row, also of a unit that is known already.
* CUPED (Deng, Xu, Kohavi & Walker 2013): a covariate from before the experiment takes out the
  variance that it explains.
* Sample ratio mismatch: Dirichlet-multinomial Bayes factor against the declared shares (Lindon &
  Malek 2022, arXiv:2011.03567). Where it alarms, who is in which variant is not chance, and no
  difference counts.
* Segments: e-values with e-Benjamini-Hochberg (Wang & Ramdas 2022, arXiv:2009.02824; false
  discovery rate, under any dependence), or anytime-valid p-values with Holm (family-wise error).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.records import Estimate
from learners.sequences import Side, boundary, evidence, tuning

Floats = NDArray[np.float64]

FEWEST_UNITS = 100
"""Units of a variant below which its mean says nothing."""
_ROUNDING = 1e-12
"""Of the squares: spread up to here is none."""
SRM_ALARM = 1e-3
SRM_PRIOR = 1_000.0
"""Units that the prior of other shares is worth: shares near the declared ones are likeliest."""


@dataclass(frozen=True, slots=True)
class Sums:
    """One metric of one variant (or segment of it): all that an interval needs.

    Attributes:
        units: how many.
        rows: how many; a unit's own are r_u.
        total: Σ over units of t_u, the sum of a unit's values.
        row_squares: Σ of squared values, over rows.
        tt, tr, rr: Σ over units of t_u², t_u·r_u, r_u².
        c, cc, ct, cr: with the unit's covariate c_u: Σ c_u, c_u², c_u·t_u, c_u·r_u.
    """

    units: int = 0
    rows: int = 0
    total: float = 0.0
    row_squares: float = 0.0
    tt: float = 0.0
    tr: float = 0.0
    rr: float = 0.0
    c: float = 0.0
    cc: float = 0.0
    ct: float = 0.0
    cr: float = 0.0

    @property
    def mean(self) -> float:
        """Over rows; NaN without any."""
        return self.total / self.rows if self.rows else math.nan


def sums(values: Floats, units: NDArray[np.int64], covariate: Floats | None = None) -> Sums:
    """Add up a metric of one variant.

    Args:
        values: shape ``(n,)``.
        units: whose each row is, shape ``(n,)``, any integers.
        covariate: the unit's, known before the experiment, shape ``(n,)``; of a unit's rows the
            mean is taken.

    Raises:
        EstimateError: The shapes differ, or a value is not finite.
    """
    c = np.zeros(len(values)) if covariate is None else covariate
    if not values.ndim == 1 or not values.shape == units.shape == c.shape:
        raise EstimateError(f"values {values.shape}, units {units.shape}, covariate {c.shape}")
    if not (np.isfinite(values).all() and np.isfinite(c).all()):
        raise EstimateError("a value or a covariate is not finite")
    _, index = np.unique(units, return_inverse=True)
    r = np.bincount(index).astype(np.float64)
    t = np.bincount(index, weights=values).astype(np.float64)
    c = np.bincount(index, weights=c) / r
    return Sums(
        len(r),
        len(values),
        *(float(each) for each in (t.sum(), values @ values, t @ t, t @ r, r @ r)),
        *(float(each) for each in (c.sum(), c @ c, c @ t, c @ r)),
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """Variant − control.

    Attributes:
        value: of the means, after the covariate where it helps.
        standard_error: of the value.
        information: rows times the design effect, of both: the mixture's clock.
        units: of both.
        fewest: units of the smaller one.
        explained: share of the variance that the covariate took out.
    """

    value: float
    standard_error: float
    information: float
    units: int
    fewest: int
    explained: float = 0.0

    def interval(
        self, *, planned_rows: float, level: float = 0.95, side: Side = "both"
    ) -> Estimate:
        """Valid at every look; infinite while there are few units.

        Args:
            planned_rows: rows of both at which it is to be tightest.
            level: of all looks together.
            side: one bound or both.
        """
        low, high = -math.inf, math.inf
        if self.fewest >= FEWEST_UNITS:
            tuned = tuning(planned_rows, level, side)
            far = float(boundary(np.array([self.information]), tuned, level, side)[0])
            half = far * self.standard_error
            low = self.value - half if side != "high" else low
            high = self.value + half if side != "low" else high
        name = "experiment" if self.explained == 0.0 else "experiment_cuped"
        units = float(self.units)
        return Estimate(name, self.value, low, high, self.standard_error, self.units, units, level)

    def e_value(self, *, planned_rows: float, level: float = 0.95) -> float:
        """Evidence against no difference; 1 while there are few units."""
        if self.fewest < FEWEST_UNITS:
            return 1.0
        tuned = tuning(planned_rows, level)
        return evidence(self.value / self.standard_error, self.information, tuned)


def difference(control: Sums, variant: Sums, *, cuped: bool = False) -> Difference:
    """Variant − control, with its standard error.

    Args:
        control: one metric's sums.
        variant: the same metric's.
        cuped: take out what the units' covariate explains; its slope is fitted on both.
    """
    both = (control, variant)
    units, fewest = sum(each.units for each in both), min(each.units for each in both)
    if fewest < 2:
        value = variant.mean - control.mean
        return Difference(value, math.inf, 1.0, units, fewest)
    slope = _slope(both) if cuped else 0.0
    value = variant.mean - control.mean
    value -= slope * (variant.c / variant.units - control.c / control.units)
    plain = sum(_variance(each, 0.0) for each in both)
    error = sum(_variance(each, slope) for each in both)
    information = max(sum(_information(each) for each in both), 1.0)
    explained = 1.0 - error / plain if slope != 0.0 and plain > 0 else 0.0
    return Difference(value, math.sqrt(error), information, units, fewest, explained)


def _residual(one: Sums) -> tuple[float, float, float]:
    """Of what each unit adds to the mean: Σ squares, and with the centred covariate; and Σ c̃².

    Units that are all alike do not prove that all others are: of a failure in a hundred, the first
    hundred units show none in 37 of 100 cases. So they count as if one differed by the whole value,
    or by 1 where that is 0.
    """
    mean, scale = one.mean, one.units / one.rows
    square = (one.tt - 2 * mean * one.tr + mean * mean * one.rr) * scale * scale
    if square <= _ROUNDING * one.tt * scale * scale:
        square = mean * mean if mean else 1.0
    cross = (one.ct - mean * one.cr) * scale
    return square, cross, max(one.cc - one.c * one.c / one.units, 0.0)


def _slope(both: Sequence[Sums]) -> float:
    """θ of CUPED: covariance over variance, pooled; each variant counts by how little it has."""
    cross, spread = 0.0, 0.0
    for one in both:
        _, own_cross, own_spread = _residual(one)
        weight = 1.0 / (one.units * (one.units - 1))
        cross += own_cross * weight
        spread += own_spread * weight
    return cross / spread if spread > 0 else 0.0


def _variance(one: Sums, slope: float) -> float:
    """Of a variant's mean, after the covariate."""
    square, cross, spread = _residual(one)
    left = max(square - 2 * slope * cross + slope * slope * spread, 0.0)
    return left / (one.units * (one.units - 1))


def _information(one: Sums) -> float:
    """Rows times the design effect: the variance of the sum in units of a row's variance."""
    mean = one.mean
    of_rows = one.row_squares - one.rows * mean * mean
    of_units = one.tt - 2 * mean * one.tr + mean * mean * one.rr
    # By rounding alone of_rows may be a little above 0 where all rows are alike.
    return (
        one.rows * of_units / of_rows if of_rows > _ROUNDING * one.row_squares else float(one.rows)
    )


def sample_ratio(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Evidence that units are not split as declared: an e-value, of which 1,000 is an alarm.

    Args:
        counts: units of each variant.
        shares: declared, above 0; they sum to 1.

    Raises:
        EstimateError: The variants differ, or a share is not above 0.
    """
    if set(counts) != set(shares) or not all(share > 0 for share in shares.values()):
        raise EstimateError(f"counts of {sorted(counts)}, shares {dict(shares)}: give the same")
    total = sum(counts.values())
    power = math.lgamma(SRM_PRIOR) - math.lgamma(SRM_PRIOR + total)
    for name, count in counts.items():
        prior = SRM_PRIOR * shares[name]
        power += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(shares[name])
    return math.exp(min(power, 700.0))


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses fall, with a family-wise error of at most alpha (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    fallen = [False] * len(p_values)
    for rank, i in enumerate(order):
        if p_values[i] > alpha / (len(p_values) - rank):
            break
        fallen[i] = True
    return fallen


def e_benjamini_hochberg(e_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses fall, with a false discovery rate of at most alpha, dependent or not."""
    k = len(e_values)
    ranked = sorted(e_values, reverse=True)
    passed = [each for rank, each in enumerate(ranked, 1) if rank * each >= k / alpha]
    return [bool(passed) and each >= passed[-1] for each in e_values]
