"""Can this log say anything about this policy? Each check gives a number, its bound, a verdict.

An estimate is only as good as its log: a log on which the policy was trained overstates it, a gap
in what was served cannot be weighted away, and a wrong propensity biases whatever uses it. Each
function here looks for one such fault and refuses where a bound is not kept. None of them reads
what a policy would earn, so looking at them first does no harm to the estimate.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.ope.evaluations import Evaluation, kish
from learners.ope.evaluations import mean_weight as mean_weight_of
from learners.ope.logs import Floats, Ints, Log
from learners.records import Estimate

ALPHA = 1e-4
"""Chance that a test alarms though all is well."""
_ROUNDING = 1e-6
_CLOCK_S = 1e-3
"""Times as floating numbers of seconds are that exact, and more."""
_ENOUGH = 10.0
"""Variance of a count from which it is as good as normal."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        value: what was found.
        bound: what it had to keep.
        passed: whether it did.
        sentence: both, for people.
    """

    name: str
    value: float
    bound: float
    passed: bool
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Plain form for a verdict."""
        return asdict(self)


def require(findings: Iterable[Finding]) -> None:
    """Refuse to evaluate where a check failed.

    Raises:
        EstimateError: With the sentences of all that failed.
    """
    failed = [finding.sentence for finding in findings if not finding.passed]
    if failed:
        raise EstimateError("the log cannot judge this policy: " + "; ".join(failed))


def newer(at: Floats | Ints, cutoff: float, *, most: float = 0.0) -> Finding:
    """The log is newer than the training of every policy that is judged on it.

    Scoring a policy on the rows that trained it overstates it by 16 to 19 points (measured).

    Args:
        at: of each row its place in the log, or the time of its decision, shape ``(n,)``. Where
            decisions may arrive late, only the place says what was known at the training.
        cutoff: the newest training row of any judged policy, in the same terms.
        most: share of rows that may be older.
    """
    old = at <= cutoff
    share = float(old.mean()) if len(old) else 0.0
    return _at_most(
        "newer_than_training",
        share,
        most,
        f"{int(old.sum()):,} of {len(old):,} rows are not newer than the training cut-off",
    )


def effective_size(
    weights: Floats, *, least: float = 50.0, clusters: Ints | None = None
) -> Finding:
    """Kish's effective sample size, of clusters where there are any.

    Args:
        weights: importance weights, or the gain in weight over another policy, shape ``(n,)``.
        least: that must be reached.
        clusters: which rows belong together, shape ``(n,)``; a negative one is alone.
    """
    found = kish(weights, clusters)
    unit = "rows" if clusters is None else "clusters"
    word = "at least" if found >= least else "fewer than"
    return Finding(
        "effective_size",
        found,
        least,
        found >= least,
        f"the {len(weights):,} rows count as {found:,.0f} {unit}, {word} the {least:,.0f} needed",
    )


def concentration(weights: Floats, *, most: float = 0.3, top: float = 0.01) -> Finding:
    """The share of all weight that lies in the heaviest rows.

    Args:
        weights: importance weights, shape ``(n,)``.
        most: share that they may hold.
        top: how many of the rows, as a share; at least one row.
    """
    n, total = len(weights), float(weights.sum())
    count = min(n, max(1, round(top * n)))
    heaviest = float(np.partition(weights, n - count)[n - count :].sum()) if n else 0.0
    share = heaviest / total if total > 0 else 1.0
    return _at_most(
        "concentration",
        share,
        most,
        f"the heaviest {count:,} of {n:,} rows hold {share:.1%} of the weight",
    )


def support(
    log: Log,
    distribution: Floats,
    *,
    most: float = 0.01,
    labels: NDArray[Any] | None = None,
    least: int = 100,
) -> Finding:
    """The judged policy's choices fall on arms that the log has served.

    Args:
        log: n rows.
        distribution: the judged policy's, shape ``(n, K)``.
        most: share of the policy's choices that may fall on arms never served.
        labels: segments, shape ``(n,)``; an arm then has to be served in each where the policy
            chooses it.
        least: rows of a segment; in smaller ones an arm may be missing by chance.
    """
    n, k = distribution.shape
    place = np.zeros(n, np.int64)
    names: list[Any] = [None]
    if labels is not None:
        found, place = np.unique(labels, return_inverse=True)
        names = found.tolist()
    served = np.bincount(place * k + log.action, minlength=len(names) * k).reshape(-1, k)
    large = np.bincount(place, minlength=len(names)) >= (1 if labels is None else least)
    masses = np.zeros((len(names), k))
    for number in range(len(names)):
        masses[number] = distribution[place == number].sum(axis=0)
    missing = np.where((served == 0) & large[:, None], masses, 0.0)
    share = float(missing.sum()) / max(n, 1)
    what = f"{share:.2%} of the policy's choices fall on arms that the log never served"
    if share > 0:
        row, arm = np.unravel_index(int(missing.argmax()), missing.shape)
        what += f" (most of them {log.arms[int(arm)]}"
        what += ")" if labels is None else f" in {names[int(row)]})"
    return _at_most("support", share, most, what)


def mean_weight(evaluation: Evaluation, *, level: float = 1.0 - ALPHA) -> Finding:
    """The mean importance weight is 1, as it is where propensities are right and arms supported.

    Args:
        evaluation: of the judged policy; its clusters count.
        level: of the interval that has to hold 1.
    """
    return about_one(mean_weight_of(evaluation, level=level))


def about_one(weight: Estimate) -> Finding:
    """The same of a mean weight that is known already."""
    passed = weight.low - _ROUNDING <= 1.0 <= weight.high + _ROUNDING
    return Finding(
        "mean_weight",
        weight.value,
        1.0,
        passed,
        f"the mean importance weight is {weight.value:.3f} ({100 * weight.level:.2f} % interval "
        f"{weight.low:.3f} to {weight.high:.3f}), which "
        f"{'agrees with' if passed else 'is not'} the 1 of a log that tells the truth",
    )


def calibration(
    distribution: Floats,
    action: Ints,
    arms: tuple[str, ...],
    *,
    bins: int = 10,
    alpha: float = ALPHA,
    labels: NDArray[Any] | None = None,
) -> Finding:
    """What was served agrees with the logged probabilities, by arm and by size of probability.

    The rows of an arm whose probability lies in one bin are a cell: served as often as the sum of
    its probabilities, within ``Σ p(1 − p)``. Cells too small to be normal are left out. The largest
    distance over all cells is tested (Bonferroni).

    Where the logging policy changed, the errors of two may cancel in the whole: then each is
    tested by itself.

    Args:
        distribution: the logged probabilities of all arms, shape ``(n, K)``.
        action: which was served, shape ``(n,)``.
        arms: K names.
        bins: of probability, equally wide.
        alpha: chance of a false alarm.
        labels: which policy served each row, shape ``(n,)``; all rows are one's if not given.
    """
    n, k = distribution.shape
    names, part = np.array([""]), np.zeros(n, np.int64)
    if labels is not None and n:
        names, part = np.unique(labels, return_inverse=True)
    cell = np.minimum((distribution * bins).astype(np.int64), bins - 1) + np.arange(k) * bins
    cell += part[:, None] * (k * bins)
    cells = len(names) * k * bins
    expected = np.bincount(cell.ravel(), distribution.ravel(), minlength=cells)
    spread = np.bincount(cell.ravel(), (distribution * (1 - distribution)).ravel(), minlength=cells)
    served = np.bincount(cell[np.arange(n), action], minlength=cells)

    def describe(at: int) -> str:
        who, low = names[at // (k * bins)], at % bins / bins
        return (
            f"{arms[at // bins % k]} was served {served[at]:,} times where its probability of "
            f"{low:.0%} to {low + 1 / bins:.0%} promised {expected[at]:,.1f}"
            f"{f' (by {who})' if who else ''}"
        )

    return _distances(
        "calibration",
        (np.asarray(served - expected, np.float64), np.asarray(spread, np.float64)),
        describe,
        alpha,
    )


def arm_calibration(log: Log, *, alpha: float = ALPHA) -> Finding:
    """The same from served probabilities alone: ``Σ 1/p`` over an arm's rows counts its chances.

    An arm that had no chance at all in rows where it was eligible fails too, once they are many: no
    weight can make up for those rows.

    A variance that is estimated from the rows that an arm served misses what it might have served
    with a small probability and did not: where 3 such rows are expected, none come once in 20 logs.
    So it is taken with the bound's square of such rows more, of the log's smallest probability;
    then the bound is that of a Poisson count of nought. An arm's own smallest probability is taken
    to be no smaller than that of all arms.

    Args:
        log: n rows; those without a propensity are left out.
        alpha: chance of a false alarm.
    """
    known = ~np.isnan(log.propensity)
    k = len(log.arms)
    inverse, action = 1.0 / log.propensity[known], log.action[known]
    chances = log.eligible[known].sum(axis=0).astype(np.float64)
    counted = np.bincount(action, inverse, minlength=k)
    # Each row's variance 1/p − 1 is itself estimated from the rows that the arm served.
    spread = np.bincount(action, inverse * (inverse - 1.0), minlength=k)
    rarest = float(inverse.max(initial=1.0))
    unseen = _far(alpha, k) ** 2 * rarest * (rarest - 1.0)
    return _distances(
        "arm_calibration",
        (np.asarray(counted - chances, np.float64), np.asarray(spread + unseen, np.float64)),
        lambda at: (
            f"{log.arms[at]} was eligible for {chances[at]:,.0f} rows, and its logged "
            f"probabilities say {counted[at]:,.0f}"
        ),
        alpha,
    )


def unweighed(propensity: Floats, *, most: float = 0.0) -> Finding:
    """The share of rows without a propensity, which only the direct method can use.

    Args:
        propensity: NaN where there is none, shape ``(n,)``.
        most: share that may lack one.
    """
    missing = np.isnan(propensity)
    share = float(missing.mean()) if len(missing) else 0.0
    return _at_most(
        "unweighed",
        share,
        most,
        f"{int(missing.sum()):,} of {len(missing):,} rows have no propensity: they serve the "
        "direct method alone",
    )


def censored(at: Floats, wait_s: float, joined_at: Floats, *, most: float = 0.0) -> Finding:
    """No judged row's reward was made before its wait was over: what may yet come is not a zero.

    Args:
        at: when the judged decisions were made, seconds since 1970, shape ``(n,)``.
        wait_s: how long feedback is waited for.
        joined_at: when each one's reward was made, shape ``(n,)``.
        most: share of rows that may have been joined too early.
    """
    early = at + wait_s > joined_at + _CLOCK_S
    share = float(early.mean()) if len(early) else 0.0
    return _at_most(
        "censored",
        share,
        most,
        f"{int(early.sum()):,} of {len(early):,} judged rows were joined before their wait was "
        "over: their rewards are not known, and are not zeros",
    )


def unjoined(due_at: Floats, joined: int, now: float, *, most: float = 0.05) -> Finding:
    """Of all decisions whose wait is over, how many have not been joined.

    Args:
        due_at: when those that have not are to be joined, seconds since 1970, shape ``(m,)``.
        joined: how many have been.
        now: when the log was read.
        most: share that may lack a reward.
    """
    lacking = int((due_at <= now).sum())
    due = joined + lacking
    share = lacking / due if due else 0.0
    return _at_most(
        "unjoined",
        share,
        most,
        f"{lacking:,} of {due:,} decisions whose wait is over have no reward yet ({share:.1%}); "
        f"{len(due_at) - lacking:,} more still wait and are left out",
    )


def unjudged(position: Ints, *, most: float = 1.0) -> Finding:
    """Of a log's joined decisions, from the first judged to the last, how many cannot judge.

    Args:
        position: of the judged rows in the log, which gives one to each joined decision, ``(n,)``.
        most: share that may lack a reward, a propensity or a context of the right form.
    """
    there = np.unique(position)
    every = int(there[-1] - there[0]) + 1 if len(there) else 0
    lacking = every - len(there)
    share = lacking / every if every else 0.0
    return _at_most(
        "unjudged",
        share,
        most,
        f"{lacking:,} of {every:,} decisions ({share:.1%}) lack a reward, a propensity or a "
        "context of the policy's form",
    )


def logging_changes(versions: NDArray[Any], *, most: float | None = None) -> Finding:
    """Which policies served the log, and how much of it another one than the commonest.

    A change is no fault where the propensities are logged, so it refuses only where asked to.

    Args:
        versions: which one served each row, shape ``(n,)``.
        most: share of rows that others than the commonest may have served; None for any.
    """
    names, counts = np.unique(versions, return_counts=True)
    n = max(1, len(versions))
    order = np.argsort(-counts, kind="stable").tolist()
    shares = ", ".join(f"{names[i]} {counts[i] / n:.1%}" for i in order[:5])
    shares += f" and {len(names) - 5} more" if len(names) > 5 else ""
    share = 1.0 - float(counts.max()) / n if len(counts) else 0.0
    what = f"{len(names)} logging policies in this range: {shares or 'none'}"
    return _at_most("logging_changes", share, 1.0 if most is None else most, what)


def duplicates(ids: Sequence[Any] | NDArray[Any], *, most: float = 0.0) -> Finding:
    """No outcome is counted twice.

    Args:
        ids: which decision each outcome is of, m of them.
        most: share of outcomes that may repeat another.
    """
    m = len(ids)
    repeated = m - len(set(ids))
    share = repeated / m if m else 0.0
    return _at_most(
        "duplicates",
        share,
        most,
        f"{repeated:,} of {m:,} outcomes repeat one of the same decision",
    )


def _at_most(name: str, value: float, bound: float, what: str) -> Finding:
    passed = value <= bound
    word = "within" if passed else "more than"
    return Finding(name, value, bound, passed, f"{what}; {word} the {bound:.1%} allowed")


def _far(alpha: float, tests: int) -> float:
    """Standard deviations that the largest of some tests exceeds with chance alpha at most."""
    return -NormalDist().inv_cdf(alpha / (2.0 * max(1, tests)))


def _distances(
    name: str, counts: tuple[Floats, Floats], describe: Callable[[int], str], alpha: float
) -> Finding:
    """The largest of some counts' distances from what was promised, in standard deviations.

    Args:
        name: of the check.
        counts: found minus promised, and the variance of that, one a cell.
        describe: the cell, for people.
        alpha: chance of a false alarm over all cells.
    """
    gap, spread = counts
    tested = np.flatnonzero(spread >= _ENOUGH)
    sure = np.flatnonzero((spread <= 0.0) & (np.abs(gap) > _ROUNDING))
    bound = _far(alpha, len(tested))
    if len(sure):
        worst = int(sure[np.abs(gap[sure]).argmax()])
        what = f"{describe(worst)}, which is impossible"
        return Finding(name, float(np.abs(gap[worst])), bound, False, what)
    if not len(tested):
        return Finding(name, 0.0, bound, True, "too few rows to test the logged probabilities")
    distance = np.abs(gap[tested]) / np.sqrt(spread[tested])
    worst = int(tested[distance.argmax()])
    value = float(distance.max())
    word = "within" if value <= bound else "more than"
    return Finding(
        name,
        value,
        bound,
        value <= bound,
        f"{describe(worst)}: {value:.1f} standard deviations, {word} the {bound:.1f} that chance "
        f"gives once in {1.0 / alpha:,.0f} logs",
    )
