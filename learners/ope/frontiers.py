"""What quality costs, from a log: cost and score of policies that never served, with intervals.

A log says of each request what the served arm scored and cost. Both are evaluated for each policy
on the same rows, so a router swept over its trade-off becomes points of a frontier, beside the arms
alone, and :func:`learners.frontier.compare` gives nAUC, Ps, QNC and the shares of the best single
model's cost. Charge failures first (:func:`learners.charges.charge`, :func:`learners.charges.bill`)
so that a cheap failure is no saving.

The figures are functions of all points at once, and the points are means over the same rows. Their
intervals come from draws of the points together, normal with the covariance of their contributions
(a parametric bootstrap). The best of several points that noise has moved is too good on average, so
Ps and the shares flatter a log that is short; the interval does not take that back.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from learners.charges import check_alike
from learners.errors import EstimateError, FrontierError
from learners.frontier import Comparison, Point, Summary, compare
from learners.intervals import clustered
from learners.ope.estimators import evaluate
from learners.ope.evaluations import Evaluation, estimate
from learners.ope.logs import Bools, Floats, Imported, Ints, Log
from learners.ope.models import reward_model
from learners.ope.rows import WITHOUT_MODEL, Estimator
from learners.records import Estimate

DRAWS = 400
_FIGURES = ("nauc", "nauc_common", "peak", "qnc")


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """One policy in the plane of cost and score.

    Attributes:
        name: of the policy or the arm.
        score: per request.
        cost: per request, failures charged.
    """

    name: str
    score: Evaluation
    cost: Evaluation

    @property
    def point(self) -> Point:
        """Where it stands; an estimate of a cost that is below 0 counts as 0."""
        return Point(max(self.cost.value, 0.0), self.score.value, self.name)

    def estimates(self, *, level: float = 0.95) -> tuple[Estimate, Estimate]:
        """Cost and score with their intervals."""
        return estimate(self.cost, level=level), estimate(self.score, level=level)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the frontier with its interval; infinite where a share is out of reach."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class LoggedFrontier:
    """A router's points and the arms', from one log.

    Attributes:
        router: the policies that were judged.
        singles: the arms that were eligible for every row and served some.
    """

    router: tuple[Standing, ...]
    singles: tuple[Standing, ...]

    def compare(self) -> Comparison:
        """The router beside the arms, by the estimates.

        Raises:
            FrontierError: There is no point of either, or no arm with a positive cost and score.
        """
        return compare([one.point for one in self.router], [one.point for one in self.singles])

    def figures(
        self, random: np.random.Generator, *, level: float = 0.95, draws: int = DRAWS
    ) -> dict[str, Figure]:
        """The router's figures with intervals: nauc, nauc_common, peak, qnc, and ``share_1.00`` ….

        Args:
            random: draws the points.
            level: of each interval by itself.
            draws: how many.

        Raises:
            FrontierError: As of :meth:`compare`.
        """
        if not 0.0 < level < 1.0:
            raise FrontierError(f"level {level} is outside (0, 1)")
        value = _flat(self.compare())
        drawn = {name: np.full(draws, np.nan) for name in value}
        for number, points in enumerate(self._drawn(random, draws)):
            try:
                found = _flat(compare(*points))
            except FrontierError:
                continue  # no arm scores above 0 in this draw, so there is no share of it
            for name, figure in found.items():
                drawn[name][number] = figure
        tails = (1 - level) / 2, (1 + level) / 2
        return {name: Figure(value[name], *_between(drawn[name], tails)) for name in value}

    def _drawn(
        self, random: np.random.Generator, draws: int
    ) -> list[tuple[tuple[Point, ...], tuple[Point, ...]]]:
        """The router's and the arms' points, drawn together."""
        both = (*self.router, *self.singles)
        columns = [evaluation for one in both for evaluation in (one.cost, one.score)]
        centre = np.array([column.value for column in columns])
        root = _root(columns)
        noise = random.standard_normal((draws, len(columns))) @ root.T
        found = []
        for row in (centre + noise).tolist():
            points = tuple(
                Point(max(row[2 * i], 0.0), row[2 * i + 1], one.name) for i, one in enumerate(both)
            )
            found.append((points[: len(self.router)], points[len(self.router) :]))
        return found


def of_log(
    log: Log,
    scores: Floats,
    costs: Floats,
    policies: Mapping[str, Floats],
    estimator: Estimator = "dr",
    *,
    clusters: Ints | None = None,
) -> LoggedFrontier:
    """Where policies and arms stand in the plane of cost and score, from a log.

    Args:
        log: n rows; its rewards are not read.
        scores: what each served arm scored, shape ``(n,)``.
        costs: what each row cost, failures charged, at least 0, shape ``(n,)``.
        policies: the judged probabilities ``(n, K)`` by name: a router's settings.
        estimator: of both.
        clusters: as of :func:`learners.ope.evaluate_each`.

    Raises:
        EstimateError: As of :func:`learners.ope.evaluate_each`.
        FrontierError: The columns do not fit the log, or a cost is negative or not finite.
    """
    check_alike(np.asarray(log.action), scores, costs)
    if not (np.isfinite(costs) & (costs >= 0.0)).all():
        raise FrontierError("a cost is negative or not finite: give numbers of at least 0")
    everywhere: Bools = np.all(log.eligible, axis=0, keepdims=True)[0]
    served = np.bincount(log.action, minlength=len(log.arms)) > 0
    singles = [arm for i, arm in enumerate(log.arms) if everywhere[i] and served[i]]
    found: dict[str, list[Evaluation]] = {}
    for column in (costs, scores):
        paid = Imported(log.arms, log.x, log.eligible, log.action, log.propensity, column)
        model = None if estimator in WITHOUT_MODEL else reward_model(paid, clusters=clusters)
        for name, distribution in policies.items():
            found.setdefault(f"policy {name}", []).append(
                evaluate(paid, distribution, estimator, predicted=model, clusters=clusters)
            )
        for arm in singles:
            always = np.zeros(log.eligible.shape)
            always[:, log.arms.index(arm)] = 1.0
            found.setdefault(f"arm {arm}", []).append(
                evaluate(paid, always, estimator, predicted=model, clusters=clusters)
            )

    def standing(kind: str, name: str) -> Standing:
        cost, score = found[f"{kind} {name}"]
        return Standing(name, score, cost)

    return LoggedFrontier(
        tuple(standing("policy", name) for name in policies),
        tuple(standing("arm", arm) for arm in singles),
    )


def as_json(frontier: LoggedFrontier, *, level: float = 0.95) -> dict[str, Any]:
    """Plain numbers: every point with its intervals."""

    def plain(one: Standing) -> dict[str, Any]:
        cost, score = one.estimates(level=level)
        return {"name": one.name, "cost": asdict(cost), "score": asdict(score)}

    return {
        "router": [plain(one) for one in frontier.router],
        "singles": [plain(one) for one in frontier.singles],
    }


def _flat(comparison: Comparison) -> dict[str, float]:
    summary: Summary = comparison.router
    found = {name: float(getattr(summary, name)) for name in _FIGURES}
    for level, share in zip(comparison.levels, summary.shares, strict=True):
        found[f"share_{level:.2f}"] = share
    return found


def _between(values: Floats, tails: tuple[float, float]) -> tuple[float, float]:
    """Quantiles that are themselves drawn values, as infinity has none beside it."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, tails, method="inverted_cdf").tolist()
    return low, high


def _root(columns: list[Evaluation]) -> Floats:
    """A root of the covariance of the columns' means, robust to clusters, shape ``(m, m)``."""
    # Sums over clusters one column at a time, then one product: no n × m × m.
    residuals = []
    for column in columns:
        groups = clustered(column.influence, column.clusters)
        residuals.append(groups.sums - column.value * groups.sizes)
    stacked = np.stack(residuals)
    g, n = stacked.shape[1], len(columns[0].influence)
    if g < 2:
        raise EstimateError("one cluster: there is no interval")
    covariance = stacked @ stacked.T * (g / (g - 1)) / n**2
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
