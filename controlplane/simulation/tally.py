"""What the traffic has seen so far, and what every arm would have earned by the same requests."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_TRUTHS = 20_000
"""The newest graded requests that are kept."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One graded request, with what every arm would have earned by it.

    Attributes:
        at_s: seconds since the traffic began.
        reward: of the served answer.
        rewards: of every arm of the world, the served one included.
    """

    request: int
    at_s: float
    domain: str
    served: str
    decision_id: str
    score: float
    cost_usd: float
    reward: float
    rewards: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean rewards of the same requests under several policies.

    Attributes:
        served: of what was served.
        fixed: of each arm, had it answered them all.
        random: of an arm drawn evenly.
        per_domain: of the best arm of each domain, known with hindsight.
    """

    requests: int
    served: float
    fixed: Mapping[str, float]
    random: float
    per_domain: float

    @property
    def best_fixed(self) -> str:
        """The arm that would have earned most alone."""
        return max(self.fixed, key=lambda arm: self.fixed[arm])

    def as_json(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "requests": self.requests,
            "served": self.served,
            "fixed": dict(self.fixed),
            "best_fixed": self.best_fixed,
            "random": self.random,
            "per_domain": self.per_domain,
        }


def compare(truths: Iterable[Truth]) -> Comparison | None:
    """What was served beside the fixed arms, chance, and hindsight; None without any truth."""
    rows = list(truths)
    if not rows:
        return None
    n, arms = len(rows), tuple(rows[0].rewards)
    by_domain: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(arms, 0.0))
    for row in rows:
        sums = by_domain[row.domain]
        for arm in arms:
            sums[arm] += row.rewards[arm]
    fixed = {arm: sum(sums[arm] for sums in by_domain.values()) / n for arm in arms}
    return Comparison(
        requests=n,
        served=sum(row.reward for row in rows) / n,
        fixed=fixed,
        random=sum(fixed.values()) / len(arms),
        per_domain=sum(max(sums.values()) for sums in by_domain.values()) / n,
    )


@dataclass(slots=True)
class Tally:
    """Live counts; read it at any time.

    Attributes:
        requests: sent to the edge.
        skipped: not sent, as too many were under way.
        graded: came back and got a grade, which is 0 for an error.
        errors: by kind: ``unreachable``, ``timeout``, ``http_<status>``, ``ungraded``, ``broken``.
        arms: graded requests by arm.
        feedback: sendings by how they ended: the control plane's status, ``http_<status>``,
            ``lost`` after the last try, ``dropped`` when the traffic ended or too many were due.
        truths: the newest graded requests.
    """

    requests: int = 0
    skipped: int = 0
    graded: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    arms: Counter[str] = field(default_factory=Counter)
    feedback: Counter[str] = field(default_factory=Counter)
    score_sum: float = 0.0
    cost_usd_sum: float = 0.0
    latency_s_sum: float = 0.0
    truths: deque[Truth] = field(default_factory=lambda: deque(maxlen=MAX_TRUTHS))

    def add(self, truth: Truth, latency_s: float) -> None:
        """Count a graded request."""
        self.graded += 1
        self.arms[truth.served] += 1
        self.score_sum += truth.score
        self.cost_usd_sum += truth.cost_usd
        self.latency_s_sum += latency_s
        self.truths.append(truth)

    @property
    def mean_score(self) -> float | None:
        """Of the graded requests; None without any."""
        return self.score_sum / self.graded if self.graded else None

    @property
    def mean_cost_usd(self) -> float | None:
        """Of the graded requests, by the world's prices; None without any."""
        return self.cost_usd_sum / self.graded if self.graded else None

    def since(self, request: int) -> Comparison | None:
        """The comparison over the kept requests from a number on."""
        return compare(truth for truth in tuple(self.truths) if truth.request >= request)

    def as_json(self) -> dict[str, Any]:
        """Plain form, without the single requests."""
        comparison = compare(tuple(self.truths))
        return {
            "requests": self.requests,
            "skipped": self.skipped,
            "graded": self.graded,
            "errors": dict(self.errors),
            "arms": dict(self.arms),
            "feedback": dict(self.feedback),
            "mean_score": self.mean_score,
            "mean_cost_usd": self.mean_cost_usd,
            "mean_latency_s": self.latency_s_sum / self.graded if self.graded else None,
            "comparison": comparison.as_json() if comparison else None,
        }
