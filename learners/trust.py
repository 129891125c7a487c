"""A judge's grades, corrected by what a trusted source said of some of the same decisions.

The judge speaks of all decisions, the trusted source of few. A mean of the judge's grades plus the
mean of ``trusted - judge`` over the decisions that both spoke of is right whatever the judge does
(prediction-powered inference, Angelopoulos, Bates, Fannjiang, Jordan & Zrnic 2023,
arXiv:2301.09633), as long as the trusted source's decisions are drawn at random. Here:

* each judge has a bias for each arm, shrunk to its common bias over the arms by the variance
  between them (DerSimonian & Laird 1986), so that one disagreement is no conviction;
* where a judge's grades do not follow the trusted ones, they are drawn to their own mean: a
  regression's slope, the power tuning of PPI++ (arXiv:2311.01453);
* a bias that is not well known taints all grades alike, so they weigh no more together than the
  trusted grades that would be as sure.
"""

from dataclasses import dataclass, replace

import numpy as np

from learners.grades import Floats, Grades, Limits, Mask, sums

_SLOPE_PRIOR = 10.0
"""Grades that follow as all the judge's do, in each arm's slope."""
_RATE_PRIOR = 5.0
"""Grades of the usual rate, in each arm's rate of trusted ones."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What is known of each source's grades of each arm; all of shape ``(K, S)``.

    Attributes:
        centre: the mean of its grades.
        bias: what is to be added to them, on average.
        variance: how sure that is.
        slope: the trusted grades' slope on its own, in [0, 1].
        known: whether the source was ever compared, shape ``(S,)``; others stay as they are.
        noise: variance of one trusted grade about its mean.
    """

    centre: Floats
    bias: Floats
    variance: Floats
    slope: Floats
    known: Mask
    noise: float

    def predict(self, grades: Grades, limits: Limits) -> Floats:
        """What the trusted source would have said of each grade's decision, ``(n,)``."""
        centre = grades.each(self.centre, 0.0)
        guess = centre + grades.each(self.bias, 0.0)
        guess += grades.each(self.slope, 1.0) * (grades.reward - centre)
        known = np.zeros(len(grades), dtype=np.bool_)
        known[grades.named] = self.known[grades.source[grades.named]]
        return np.where(known, np.clip(guess, *limits), grades.reward)

    def worth(self, grades: Grades) -> Floats:
        """By what each grade's weight is multiplied, ``(n,)``.

        N grades with a common error of variance V are worth ``N / (1 + N · V / noise)`` without.
        """
        alone = grades.named & ~grades.paired
        total = grades.totals(grades.weight, alone)
        shared = np.where(self.known, total * self.variance / self.noise, 0.0)
        return np.where(alone, grades.each(1.0 / (1.0 + shared), 1.0), 1.0)


def corrected(grades: Grades, limits: Limits | None = None) -> Grades:
    """Trusted grades where there are any, and the others as the trusted source would have given.

    A trusted grade stands in place of each other of its decision, and is nobody's in particular
    from then on. A source that no trusted one was ever compared with stays as it is.

    Args:
        grades: of all sources.
        limits: the least and the greatest reward; those of the grades if not given.
    """
    return apply(fit(grades), grades, limits or grades.limits)


def apply(correction: Correction, grades: Grades, limits: Limits) -> Grades:
    """The same by a correction that was fitted before."""
    guessed = replace(
        grades,
        reward=correction.predict(grades, limits),
        weight=grades.weight * correction.worth(grades),
    )
    return guessed.with_trusted()


def rectified(correction: Correction, grades: Grades, limits: Limits) -> Floats:
    """Rewards whose mean is right though the correction is not, as noisy as that is, ``(n,)``.

    ``guess + (trusted - guess) / rate`` where a trusted source spoke, and the guess elsewhere:
    the rate is that of trusted grades among the arm's. Fit the correction to other grades. Where
    no trusted source spoke at all, the guess stands.
    """
    guess = correction.predict(grades, limits)
    paired = grades.paired
    if not paired.any():
        return np.where(np.isfinite(grades.trusted), grades.trusted, guess)
    named, k = grades.named, grades.shape[0]
    usual = float(paired.sum() / named.sum())
    rate = (np.bincount(grades.arm[paired], minlength=k) + _RATE_PRIOR * usual) / (
        np.bincount(grades.arm[named], minlength=k) + _RATE_PRIOR
    )
    found = np.where(paired, guess + (grades.trusted - guess) / rate[grades.arm], guess)
    # What only a trusted source spoke of is no sample of what the judge graded.
    return np.where(np.isfinite(grades.trusted) & ~named, grades.trusted, found)


def fit(grades: Grades) -> Correction:
    """How each source differs from the trusted one, arm by arm."""
    k, s = grades.shape
    found = np.zeros((3, k, s))
    found[2] = 1.0
    known = np.zeros(s, dtype=np.bool_)
    noise = _noise(grades)
    for source in np.unique(grades.source[grades.paired]).tolist():
        rows = grades.paired & (grades.source == source)
        pairs = _Pairs.of(grades, rows)
        found[:, :, source] = (*_biases(pairs, noise), _slopes(pairs, noise))
        known[source] = True
    everyone = np.ones(len(grades), dtype=np.bool_)
    count = grades.totals(np.ones(len(grades)), everyone)
    centre = grades.totals(grades.reward, everyone) / np.maximum(count, 1.0)
    # What has no mean yet cannot be drawn to it.
    slope = np.where(count > 0, found[2], 1.0)
    return Correction(centre, found[0], found[1], slope, known, noise)


def _noise(grades: Grades) -> float:
    told = np.concatenate([grades.reward, grades.trusted[np.isfinite(grades.trusted)]])
    return max(float(told.var()), _TINY) if len(told) else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """One source's pairs by arm, each ``(K,)``: number, mean gap, and sums about the arm's means.

    ``gaps`` is Σ(gap - mean)², ``own`` that of the source's grades, ``both`` their product's with
    the trusted.
    """

    count: Floats
    gap: Floats
    gaps: Floats
    own: Floats
    both: Floats

    @classmethod
    def of(cls, grades: Grades, rows: Mask) -> "_Pairs":
        arm, own, trusted = grades.arm[rows], grades.reward[rows], grades.trusted[rows]
        k = grades.shape[0]
        count = sums(arm, np.ones(len(arm)), k)

        def mean(value: Floats) -> Floats:
            return sums(arm, value, k) / np.maximum(count, 1.0)

        gap = mean(trusted - own)
        rest, other = own - mean(own)[arm], trusted - mean(trusted)[arm]
        return cls(
            count,
            gap,
            sums(arm, np.square(other - rest), k),
            sums(arm, rest * rest, k),
            sums(arm, rest * other, k),
        )


def _biases(pairs: _Pairs, noise: float) -> tuple[Floats, Floats]:
    """Each arm's bias and its variance, shrunk to the source's common bias."""
    seen = pairs.count > 0
    count, gap, arms = pairs.count[seen], pairs.gap[seen], int(seen.sum())
    # One more gap, and one more arm, as far off as rewards are from each other: a few agreements
    # by chance are no proof of agreement.
    within = (pairs.gaps.sum() + noise) / (count.sum() - arms + 1.0)
    weight = count / within
    rough = float(weight @ gap / weight.sum())
    distance = float(weight @ np.square(gap - rough))
    slope = float(weight.sum() - weight @ weight / weight.sum())
    found = max(0.0, (distance - (arms - 1)) / slope) if arms > 1 else 0.0
    between = (found * (arms - 1) + noise) / arms
    shared = 1.0 / (between + within / count)
    common = float(shared @ gap / shared.sum())
    sure = pairs.count / within + 1.0 / between
    bias = (pairs.count / within * pairs.gap + common / between) / sure
    variance = 1.0 / sure + np.square(1.0 / (between * sure)) / shared.sum()
    return bias, variance


def _slopes(pairs: _Pairs, noise: float) -> Floats:
    """How far the trusted grades follow the source's within each arm, in [0, 1]."""
    usual = float((pairs.both.sum() + noise) / (pairs.own.sum() + noise))
    prior = _SLOPE_PRIOR * noise
    found = (pairs.both + prior * min(max(usual, 0.0), 1.0)) / (pairs.own + prior)
    return np.asarray(np.clip(found, 0.0, 1.0))
