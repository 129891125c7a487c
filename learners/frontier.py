"""What quality costs: the cost-score frontier of a router, beside single models and their mixes.

A router swept over its trade-off (λ, a threshold, a preference) gives one :class:`Point` a setting;
:func:`compare` says at which share of the best single model's cost it reaches 100, 98, 95 and 90 %
of that model's score. Two policies can be mixed by a coin, so whatever lies on the segment between
two points can be served as well: what is reachable is the :func:`hull`.

nAUC, Ps and QNC are those of MMR-Bench (Ma, Lai & Ye, arXiv:2601.17814), as its published code
computes them (github.com/Hunter-Wrynn/MMR-Bench, ``src/mmrbench/eval.py``, commit 494e8c8); the
paper's own equations were not at hand to compare. They take the Pareto front without mixing:

* nAUC: the trapezoid area under the front over cost, divided by the front's own cost range;
* Ps: the highest score on the front;
* QNC: the cost of the cheapest point of the front whose score is at least the best single model's,
  divided by that model's cost; infinite where none is.

The own range makes nAUC flatter a router that has only expensive points, so :func:`nauc` also takes
a range that is common to all that are compared.

Costs should have failures charged first: see :func:`learners.charges.bill`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from learners.charges import check_alike
from learners.errors import FrontierError

LEVELS = (1.0, 0.98, 0.95, 0.90)
"""Parts of the best single model's score whose cost is reported."""

Scale = Literal["linear", "log"]
Floats = NDArray[np.float64]

_SLACK = 1e-12
"""Relative rounding that must not keep a score from being reached: a mix of an arm with itself
adds up to a hair less than the arm."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a policy costs and scores on average per request.

    Attributes:
        cost: in any unit, the same for all that is compared; at least 0.
        score: higher is better.
        name: of the setting or the arm.
    """

    cost: float
    score: float
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse what has no place in the plane."""
        if not (math.isfinite(self.cost) and self.cost >= 0.0):
            raise FrontierError(
                f"{self.name}: cost={self.cost}: give a finite number of at least 0"
            )
        if not math.isfinite(self.score):
            raise FrontierError(f"{self.name}: score={self.score}: give a finite number")


@dataclass(frozen=True, slots=True)
class Summary:
    """One frontier in figures.

    Attributes:
        shares: for each level, the least cost (mixes allowed) of that part of the best single
            model's score, as a share of that model's cost; infinite where it is out of reach.
        nauc: as MMR-Bench, over the front's own range; NaN for a single point.
        nauc_common: the same over the cost range of the single models; NaN where they all cost one.
        peak: Ps, the highest score.
        qnc: as MMR-Bench.
    """

    shares: tuple[float, ...]
    nauc: float
    nauc_common: float
    peak: float
    qnc: float

    def as_json(self) -> dict[str, Any]:
        """Plain form; what is infinite or undefined is None, as JSON has neither."""
        plain = asdict(self) | {"shares": [_plain(share) for share in self.shares]}
        return {key: _plain(value) for key, value in plain.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A router beside its references, all relative to the ``best`` single model."""

    best: Point
    levels: tuple[float, ...]
    router: Summary
    two_model_mix: Summary
    full_information: Summary | None

    def as_json(self) -> dict[str, Any]:
        """Plain form for a benchmark's report."""
        full = self.full_information
        return {
            "best_single": asdict(self.best),
            "levels": list(self.levels),
            "router": self.router.as_json(),
            "two_model_mix": self.two_model_mix.as_json(),
            "full_information": None if full is None else full.as_json(),
        }


def compare(
    router: Sequence[Point],
    singles: Sequence[Point],
    *,
    full_information: Sequence[Point] | None = None,
    levels: Sequence[float] = LEVELS,
) -> Comparison:
    """A router's frontier beside the two-model mix and the full-information router.

    The two-model mix sends each request by a coin to one of two arms: the hull of the single
    models, as every point of a plane hull's edge mixes its two ends. It knows nothing of the
    request, so a router that is not cheaper than it has learnt nothing.

    Args:
        router: its points over the trade-off, any order.
        singles: one point an arm.
        full_information: points of the router that was trained on all arms' outcomes.
        levels: parts of the best single model's score, each above 0.

    Raises:
        FrontierError: There are no points, a level is not above 0, or the best single model has
            no positive cost and score to be measured against.
    """
    best = best_single(singles)
    if not (best.cost > 0.0 and best.score > 0.0):
        raise FrontierError(
            f"best single model {best.name!r}: cost={best.cost}, score={best.score}: shares need "
            "both above 0; shift the scores or leave free models out"
        )
    wrong = [level for level in levels if not (math.isfinite(level) and level > 0.0)]
    if wrong:
        raise FrontierError(f"level {wrong[0]}: give finite numbers above 0, such as 0.95")

    def summary(points: Sequence[Point]) -> Summary:
        return Summary(
            shares=tuple(cost_at(points, level * best.score) / best.cost for level in levels),
            nauc=nauc(points),
            nauc_common=nauc(points, span=_span(singles)),
            peak=max(point.score for point in points),
            qnc=cost_at(points, best.score, mixed=False) / best.cost,
        )

    return Comparison(
        best=best,
        levels=tuple(levels),
        router=summary(router),
        two_model_mix=summary(singles),
        full_information=None if full_information is None else summary(full_information),
    )


def best_single(singles: Sequence[Point]) -> Point:
    """The arm of the highest score; of equals the cheapest, which is the hardest to beat."""
    _some(singles)
    return min(singles, key=lambda point: (-point.score, point.cost))


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that none other beats, by rising cost and strictly rising score."""
    _some(points)
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.score)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return tuple(front)


def hull(points: Sequence[Point]) -> tuple[Point, ...]:
    """The corners of what mixes reach: the front's upper concave envelope, by rising cost."""
    corners: list[Point] = []
    for point in pareto(points):
        while len(corners) > 1 and _below(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return tuple(corners)


def cost_at(points: Sequence[Point], score: float, *, mixed: bool = True) -> float:
    """The least cost at which a score is reached; infinite where it is out of reach.

    Args:
        points: a policy's settings.
        score: to be reached, in the points' unit.
        mixed: whether a coin may choose between two settings.
    """
    corners = hull(points) if mixed else pareto(points)
    reached = score - _SLACK * abs(score)
    if corners[0].score >= reached:
        return corners[0].cost
    for left, right in pairwise(corners):
        if right.score >= reached:
            spare = max(0.0, (right.score - score) / (right.score - left.score)) if mixed else 0.0
            return right.cost - spare * (right.cost - left.cost)
    return math.inf


def nauc(
    points: Sequence[Point], *, span: tuple[float, float] | None = None, scale: Scale = "linear"
) -> float:
    """The mean height of the Pareto front over a range of costs, by trapezoids.

    Args:
        points: a policy's settings.
        span: lowest and highest cost of the range; the front's own, as in MMR-Bench, when None.
            Below its cheapest point a policy can serve nothing and counts 0; past its costliest
            it keeps its peak.
        scale: the axis that the mean is taken over. Log gives each factor of cost the same weight;
            all costs must then be above 0.

    Returns:
        In the unit of the score; NaN where the range is a single cost.

    Raises:
        FrontierError: The range is upside down, or the scale is log and a cost is 0.
    """
    front = pareto(points)
    low, high = (front[0].cost, front[-1].cost) if span is None else span
    if not 0.0 <= low <= high < math.inf:
        raise FrontierError(f"span ({low}, {high}): give the lower cost first, both at least 0")
    costs = np.array([low, high, *(point.cost for point in front)])
    if scale == "log":
        if costs.min() <= 0.0:
            raise FrontierError("scale='log' with a cost of 0: use 'linear' or leave free arms out")
        costs = np.log(costs)
    low, high, costs = float(costs[0]), float(costs[1]), costs[2:]
    if low == high:
        return math.nan
    scores = np.array([point.score for point in front])
    start = max(low, float(costs[0]))
    if start >= high:
        return 0.0
    inside = (costs > start) & (costs < high)
    x = np.array([start, *costs[inside], high])
    return float(np.trapezoid(np.interp(x, costs, scores), x)) / (high - low)


def of_arms(scores: Floats, costs: Floats, arms: Sequence[str]) -> tuple[Point, ...]:
    """One point an arm, from a full-information table ``(n, K)`` of scores and of costs."""
    check_alike(scores, costs)
    if scores.shape[1:] != (len(arms),):
        raise FrontierError(f"scores {scores.shape} for {len(arms)} arms: give one column an arm")
    means = zip(costs.mean(axis=0).tolist(), scores.mean(axis=0).tolist(), arms, strict=True)
    return tuple(Point(cost, score, arm) for cost, score, arm in means)


def expected(choice: Floats, scores: Floats, costs: Floats, name: str = "") -> Point:
    """The point of a policy on a full-information table.

    Args:
        choice: its probability of each arm for each request, shape ``(n, K)``.
        scores: every arm's score, shape ``(n, K)``.
        costs: every arm's cost, shape ``(n, K)``; of :func:`learners.charges.bill`
            where failures are charged.
        name: of the setting.
    """
    check_alike(scores, costs, choice)
    n = len(scores)
    return Point(float((choice * costs).sum()) / n, float((choice * scores).sum()) / n, name)


def _below(left: Point, middle: Point, right: Point) -> bool:
    """Whether the middle lies on or under the line from left to right."""
    rise = (middle.score - left.score) * (right.cost - left.cost)
    return rise <= (right.score - left.score) * (middle.cost - left.cost)


def _span(points: Sequence[Point]) -> tuple[float, float]:
    costs = [point.cost for point in points]
    return min(costs), max(costs)


def _some(points: Sequence[Point]) -> None:
    if not points:
        raise FrontierError("there are no points: give at least one")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
